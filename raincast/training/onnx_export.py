"""Fitted gradient-boosted trees -> an ONNX graph in double precision, checked against scikit-learn.

skl2onnx writes thresholds in single precision, so that some rows take other branches; this writer keeps double
precision. Operator: TreeEnsemble of ai.onnx.ml opset 5,
https://onnx.ai/onnx/operators/onnx_aionnxml_TreeEnsemble.html.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper
from sklearn.pipeline import Pipeline

from raincast.features.build import context_mask, feature_names, own_feature_count
from raincast.forecasting import model
from raincast.forecasting.forecast import PARITY_TOLERANCE
from raincast.observations.errors import ObservationError

# Rows of each matrix that the graphs are checked on.
CHECKED_ROWS = 10_000
BRANCH_LEQ = 0


class ParityError(model.ModelError):
    """The forecasts of the exported graph differ from those of scikit-learn."""


def to_onnx(fitted: Pipeline, *, context: bool = True) -> bytes:
    """Serialize a graph: `features` (rows, features) float64, NaN missing -> `probability_of_rain` (rows,) float64.

    `fitted` comes from `fit.fit_trees`. Numeric splits only. The same trees give the same bytes. Without `context` the
    graph takes only own features: splits on context features are replaced by their branch for missing values, so that
    the smaller trees forecast the same for a single row.
    """
    trees = _trees(fitted)
    if not context:
        trees = [_without_splits_on(tree, context_mask()) for tree in trees]
    # A tree without a split adds the same value to every row.
    constant = sum(float(tree["value"][0]) for tree in trees if len(tree) == 1)
    trees = [tree for tree in trees if len(tree) > 1]
    if not trees:
        raise ObservationError("no tree has a split: there are too few observations to learn from")
    # Adjacent trees have similar first splits, which helps the processor's branch prediction.
    trees.sort(key=lambda tree: (int(tree["feature_idx"][0]), float(tree["num_threshold"][0])))
    # Trees and baseline have no public accessor; the parity check at every export detects changes of scikit-learn.
    # Constants go into the leaves of the first tree, since an Add operator would take a microsecond.
    baseline = fitted[-1]._baseline_prediction.item() + constant  # pylint: disable=protected-access
    trees[0]["value"] += baseline
    nodes = [
        helper.make_node("TreeEnsemble", [model.INPUT], ["logit"], "trees", domain="ai.onnx.ml", **_attributes(trees)),
        helper.make_node("Sigmoid", ["logit"], ["column"]),
        helper.make_node("Reshape", ["column", "flat"], [model.OUTPUT]),
    ]
    width = len(feature_names()) if context else own_feature_count()
    graph = helper.make_graph(
        nodes,
        "raincast",
        [helper.make_tensor_value_info(model.INPUT, TensorProto.DOUBLE, ["rows", width])],
        [helper.make_tensor_value_info(model.OUTPUT, TensorProto.DOUBLE, ["rows"])],
        [numpy_helper.from_array(np.array([-1], np.int64), "flat")],
    )
    opsets = [helper.make_opsetid("", 21), helper.make_opsetid("ai.onnx.ml", 5)]
    proto = helper.make_model(graph, opset_imports=opsets, ir_version=10, producer_name="raincast")
    onnx.checker.check_model(proto)
    return bytes(proto.SerializeToString(deterministic=True))


def _trees(fitted: Pipeline) -> list[NDArray[Any]]:
    """Return the nodes of each tree, with the positions of their features in the matrix of all features."""
    columns = np.asarray(fitted[0].kw_args["indices"])
    trees = []
    for iteration in fitted[-1]._predictors:  # pylint: disable=protected-access
        nodes = iteration[0].nodes.copy()
        nodes["feature_idx"] = columns[nodes["feature_idx"]]
        trees.append(nodes)
    return trees


def _without_splits_on(tree: NDArray[Any], missing: NDArray[np.bool_]) -> NDArray[Any]:
    """Return an equivalent tree for rows in which the `missing` features are NaN, without the splits on them."""
    left, right, leaf = tree["left"].astype(np.intp), tree["right"].astype(np.intp), tree["is_leaf"].astype(bool)
    child_if_missing = np.where(tree["missing_go_to_left"], left, right)
    # The node that replaces each node. Parents come before their children.
    replacement = np.arange(len(tree))
    for node in reversed(range(len(tree))):
        if not leaf[node] and missing[tree["feature_idx"][node]]:
            replacement[node] = replacement[child_if_missing[node]]
    kept: list[int] = []
    to_visit = [int(replacement[0])]
    while to_visit:
        node = to_visit.pop()
        kept.append(node)
        if not leaf[node]:
            to_visit += [int(replacement[right[node]]), int(replacement[left[node]])]
    position = np.zeros(len(tree), np.intp)
    position[kept] = np.arange(len(kept))
    smaller = tree[kept]
    inner = ~leaf[kept]
    for side, child in (("left", left), ("right", right)):
        smaller[side][inner] = position[replacement[child[kept][inner]]]
    return smaller


def _attributes(trees: list[NDArray[Any]]) -> dict[str, Any]:
    """Return the TreeEnsemble attributes: arrays over the inner nodes of all trees, and over their leaves."""
    count = np.array([len(tree) for tree in trees])
    start = np.cumsum(count) - count
    nodes = np.concatenate(trees)
    leaf = nodes["is_leaf"].astype(bool)
    # Position of each inner node among the inner nodes, of each leaf among the leaves.
    position = np.where(leaf, np.cumsum(leaf), np.cumsum(~leaf)) - 1
    offset = np.repeat(start, count)[~leaf]
    inner = nodes[~leaf]
    left, right = inner["left"] + offset, inner["right"] + offset
    return {
        "n_targets": 1,
        "tree_roots": position[start].tolist(),
        "nodes_featureids": inner["feature_idx"].tolist(),
        "nodes_splits": numpy_helper.from_array(inner["num_threshold"].astype(np.float64), "splits"),
        "nodes_modes": numpy_helper.from_array(np.full(len(inner), BRANCH_LEQ, np.uint8), "modes"),
        "nodes_truenodeids": position[left].tolist(),
        "nodes_falsenodeids": position[right].tolist(),
        "nodes_trueleafs": leaf[left].astype(int).tolist(),
        "nodes_falseleafs": leaf[right].astype(int).tolist(),
        "nodes_missing_value_tracks_true": inner["missing_go_to_left"].astype(int).tolist(),
        "leaf_targetids": [0] * int(leaf.sum()),
        "leaf_weights": numpy_helper.from_array(nodes["value"][leaf].astype(np.float64), "weights"),
    }


def random_rows(fitted: Pipeline, rows: int, seed: int = 0) -> NDArray[np.float64]:
    """Return random rows that test the splits: values on a threshold, next to it, far from it, and missing."""
    generator = np.random.default_rng(seed)
    nodes = np.concatenate(_trees(fitted))
    nodes = nodes[nodes["is_leaf"] == 0]
    matrix = generator.normal(0, 100, (rows, len(feature_names())))
    for feature in np.unique(nodes["feature_idx"]):
        splits = nodes["num_threshold"][nodes["feature_idx"] == feature]
        # A split of missing from present values has an infinite threshold.
        splits = np.append(splits[np.isfinite(splits)], 0.0)
        on = generator.choice(splits, rows)
        next_to = np.nextafter(on, generator.choice([-np.inf, np.inf], rows))
        kind = generator.integers(4, size=rows)
        matrix[:, feature] = np.choose(kind, [on, next_to, on + generator.normal(0, np.ptp(splits) + 1, rows), np.nan])
    return matrix


def export(fitted: Pipeline, matrices: dict[str, NDArray[np.float64]]) -> dict[str, bytes]:
    """Export the fitted model as ONNX graphs, with and without context, by the names of their files.

    Checks them on random rows and on a sample of the rows of each feature matrix. Raises ParityError if a graph's
    forecasts differ from those of scikit-learn by more than PARITY_TOLERANCE.
    """
    graphs = {model.GRAPH: to_onnx(fitted), model.SINGLE_ROW_GRAPH: to_onnx(fitted, context=False)}
    session, single_row_session = (model.session(graph) for graph in graphs.values())
    for matrix in (
        random_rows(fitted, CHECKED_ROWS),
        *(matrix[:: len(matrix) // CHECKED_ROWS + 1] for matrix in matrices.values()),
    ):
        check_parity(model.run(session, matrix), fitted.predict_proba(matrix)[:, 1])
        without_context = np.where(context_mask(), np.nan, matrix)
        own_features = np.ascontiguousarray(matrix[:, : own_feature_count()])
        check_parity(model.run(single_row_session, own_features), fitted.predict_proba(without_context)[:, 1])
    return graphs


def check_parity(fcst: NDArray[np.float64], sklearn_fcst: NDArray[np.float64]) -> None:
    """Raise ParityError if forecasts of the same rows differ by more than PARITY_TOLERANCE or one is NaN."""
    difference = float(np.max(np.abs(fcst - sklearn_fcst)))
    if difference > PARITY_TOLERANCE or np.isnan(difference):
        raise ParityError(
            f"the ONNX graph differs from scikit-learn by {difference:g}, at most {PARITY_TOLERANCE:g} is allowed"
        )
