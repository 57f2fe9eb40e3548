"""Fitted gradient-boosted trees -> an ONNX graph in double precision, checked against scikit-learn.

skl2onnx writes thresholds in single precision, which sends rows down other branches; this writer keeps every number as
it is. Operator: TreeEnsemble of ai.onnx.ml opset 5, https://onnx.ai/onnx/operators/onnx_aionnxml_TreeEnsemble.html.
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
from raincast.observations.errors import ObservationError

PARITY_TOLERANCE = 1e-9
PARITY_ROWS = 10_000
BRANCH_LEQ = 0


class ParityError(model.ModelError):
    """The exported graph does not forecast what scikit-learn does."""


def to_onnx(fitted: Pipeline, *, context: bool = True) -> bytes:
    """Serialized graph: `features` (rows, features) float64, NaN missing -> `probability_of_rain` (rows,) float64.

    `fitted` is what `fit.fit` returns. Numeric splits only. The same trees give the same bytes. Without `context`
    the graph takes only the features of a row itself: splits on the others have gone the way of the missing, which
    leaves smaller trees that forecast the same for a row alone.
    """
    trees = _trees(fitted)
    if not context:
        trees = [_without(tree, context_mask()) for tree in trees]
    # A tree without a split says the same to every row.
    constant = sum(float(tree["value"][0]) for tree in trees if len(tree) == 1)
    trees = [tree for tree in trees if len(tree) > 1]
    if not trees:
        raise ObservationError("no tree has a split: there are too few observations to learn from")
    # Trees that ask the same first follow each other: a branch then tells the processor something about the next ones.
    trees.sort(key=lambda tree: (int(tree["feature_idx"][0]), float(tree["num_threshold"][0])))
    # Trees and baseline have no public accessor; the parity check at every export guards against a change of them.
    # Each operator takes a microsecond: what is added to all trees is added to the first one's leaves.
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
    """The nodes of each tree, with the position of their feature in the whole feature matrix."""
    columns = np.asarray(fitted[0].kw_args["indices"])
    trees = []
    for iteration in fitted[-1]._predictors:  # pylint: disable=protected-access
        nodes = iteration[0].nodes.copy()
        nodes["feature_idx"] = columns[nodes["feature_idx"]]
        trees.append(nodes)
    return trees


def _without(tree: NDArray[Any], absent: NDArray[np.bool_]) -> NDArray[Any]:
    """The same tree for rows in which the `absent` features are missing: without the splits on them."""
    left, right, leaf = tree["left"].astype(np.intp), tree["right"].astype(np.intp), tree["is_leaf"].astype(bool)
    missing = np.where(tree["missing_go_to_left"], left, right)
    # Where each node leads to; parents stand before their children.
    leads = np.arange(len(tree))
    for node in reversed(range(len(tree))):
        if not leaf[node] and absent[tree["feature_idx"][node]]:
            leads[node] = leads[missing[node]]
    kept: list[int] = []
    rest = [int(leads[0])]
    while rest:
        node = rest.pop()
        kept.append(node)
        if not leaf[node]:
            rest += [int(leads[right[node]]), int(leads[left[node]])]
    position = np.zeros(len(tree), np.intp)
    position[kept] = np.arange(len(kept))
    smaller = tree[kept]
    inner = ~leaf[kept]
    for side, child in (("left", left), ("right", right)):
        smaller[side][inner] = position[leads[child[kept][inner]]]
    return smaller


def _attributes(trees: list[NDArray[Any]]) -> dict[str, Any]:
    """TreeEnsemble attributes: inner nodes of all trees in one row of arrays, leaves in another."""
    count = np.array([len(tree) for tree in trees])
    start = np.cumsum(count) - count
    everything = np.concatenate(trees)
    leaf = everything["is_leaf"].astype(bool)
    # Position of each node among the inner nodes, of each leaf among the leaves.
    position = np.where(leaf, np.cumsum(leaf), np.cumsum(~leaf)) - 1
    offset = np.repeat(start, count)[~leaf]
    inner = everything[~leaf]
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
        "leaf_weights": numpy_helper.from_array(everything["value"][leaf].astype(np.float64), "weights"),
    }


def random_rows(fitted: Pipeline, rows: int, seed: int = 0) -> NDArray[np.float64]:
    """Rows that try the trees' every edge: values on a threshold, just beside it, between, far away and missing."""
    generator = np.random.default_rng(seed)
    nodes = np.concatenate(_trees(fitted))
    nodes = nodes[nodes["is_leaf"] == 0]
    matrix = generator.normal(0, 100, (rows, len(feature_names())))
    for feature in np.unique(nodes["feature_idx"]):
        splits = nodes["num_threshold"][nodes["feature_idx"] == feature]
        # A split of missing from present has an infinite threshold.
        splits = np.append(splits[np.isfinite(splits)], 0.0)
        on = generator.choice(splits, rows)
        beside = np.nextafter(on, generator.choice([-np.inf, np.inf], rows))
        kind = generator.integers(4, size=rows)
        matrix[:, feature] = np.choose(kind, [on, beside, on + generator.normal(0, np.ptp(splits) + 1, rows), np.nan])
    return matrix


def export(fitted: Pipeline, matrices: dict[str, NDArray[np.float64]]) -> dict[str, bytes]:
    """The fitted model as ONNX graphs, with and without context, by the names of their files.

    Tried on random rows and on a sample of the rows of each feature matrix; ParityError where a graph does not forecast
    the same as scikit-learn to 1e-9.
    """
    graphs = {model.GRAPH: to_onnx(fitted), model.ROW_GRAPH: to_onnx(fitted, context=False)}
    whole, row = (model.session(graph) for graph in graphs.values())
    for matrix in (
        random_rows(fitted, PARITY_ROWS),
        *(matrix[:: len(matrix) // PARITY_ROWS + 1] for matrix in matrices.values()),
    ):
        check_parity(model.run(whole, matrix), fitted.predict_proba(matrix)[:, 1])
        alone = np.where(context_mask(), np.nan, matrix)
        own = np.ascontiguousarray(matrix[:, : own_feature_count()])
        check_parity(model.run(row, own), fitted.predict_proba(alone)[:, 1])
    return graphs


def check_parity(fcst: NDArray[np.float64], sklearn_fcst: NDArray[np.float64]) -> None:
    """ParityError where two runs over the same rows differ by more than 1e-9 or one is not a number."""
    difference = float(np.max(np.abs(fcst - sklearn_fcst)))
    if difference > PARITY_TOLERANCE or np.isnan(difference):
        raise ParityError(
            f"the ONNX graph differs from scikit-learn by {difference:g}, allowed is {PARITY_TOLERANCE:g}"
        )
