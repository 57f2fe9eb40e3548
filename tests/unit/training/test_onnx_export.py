"""Export of the trees to ONNX, compared with scikit-learn."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import pytest
from onnxruntime.capi.onnxruntime_pybind11_state import InvalidArgument  # pylint: disable=no-name-in-module

from raincast.features.build import context_mask, feature_names, own_feature_count
from raincast.forecasting import model
from raincast.observations.errors import ObservationError
from raincast.observations.table import Table
from raincast.training import fit, forms, onnx_export
from raincast.training.config import ModelConfig
from raincast.training.forms import CONTEXT, SINGLE_ROW


@pytest.mark.parametrize("seed", [1, 2])
def test_the_graph_forecasts_what_scikit_learn_does(seed: int, fitted: tuple[Any, Any]) -> None:
    pipeline, matrices = fitted
    session = model.session(onnx_export.to_onnx(pipeline))
    rows = onnx_export.random_rows(pipeline, 3000, seed)
    assert np.isnan(rows).any(axis=1).mean() > 0.9
    for matrix in (rows, *matrices.values()):
        np.testing.assert_allclose(model.run(session, matrix), pipeline.predict_proba(matrix)[:, 1], atol=1e-12)


@pytest.mark.parametrize("learned", ["fitted", "contextual"])
@pytest.mark.parametrize("seed", [1, 2])
def test_the_single_row_graph_forecasts_like_the_other_graph_without_context(
    seed: int, learned: str, request: pytest.FixtureRequest
) -> None:
    pipeline, matrices = request.getfixturevalue(learned)
    with_context = model.session(onnx_export.to_onnx(pipeline))
    single_row = model.session(onnx_export.to_onnx(pipeline, context=False))
    for matrix in (onnx_export.random_rows(pipeline, 3000, seed), *matrices.values()):
        without_context = np.where(context_mask(), np.nan, matrix)
        fcst = model.run(single_row, np.ascontiguousarray(matrix[:, : own_feature_count()]))
        np.testing.assert_allclose(fcst, model.run(with_context, without_context), atol=1e-12, rtol=0)
        np.testing.assert_allclose(fcst, pipeline.predict_proba(without_context)[:, 1], atol=1e-12, rtol=0)
    # Rows with context are forecast differently.
    fcst = model.run(single_row, np.ascontiguousarray(matrices[CONTEXT][:, : own_feature_count()]))
    assert np.abs(fcst - model.run(with_context, matrices[CONTEXT])).max() > 0.01


def _split_features(graph: bytes) -> np.ndarray:
    (node,) = [node for node in onnx.load_from_string(graph).graph.node if node.op_type == "TreeEnsemble"]
    (used,) = [attribute.ints for attribute in node.attribute if attribute.name == "nodes_featureids"]
    return np.array(used)


def test_the_single_row_graph_has_no_split_on_context_and_is_smaller(
    contextual: tuple[Any, Any],
) -> None:
    pipeline, _ = contextual
    with_context, single_row = (
        _split_features(onnx_export.to_onnx(pipeline, context=context)) for context in (True, False)
    )
    assert (with_context >= own_feature_count()).sum() > 50
    assert (single_row < own_feature_count()).all()
    assert 0 < len(single_row) <= (with_context < own_feature_count()).sum()


def test_the_graphs_take_exactly_their_features(fitted: tuple[Any, Any]) -> None:
    graphs = onnx_export.export(*fitted)
    assert sorted(graphs) == ["model-row.onnx", "model.onnx"]
    widths = {model.GRAPH: len(feature_names()), model.SINGLE_ROW_GRAPH: own_feature_count()}
    for name, width in widths.items():
        session = model.session(graphs[name])
        (features,) = session.get_inputs()
        assert (features.name, features.shape, features.type) == (model.INPUT, ["rows", width], "tensor(double)")
        assert model.run(session, np.full((2, width), np.nan)).shape == (2,)
        for other in (width - 1, width + 1):
            with pytest.raises(InvalidArgument, match="Got invalid dimensions for input"):
                model.run(session, np.full((2, other), np.nan))


def test_a_single_row_graph_that_differs_from_scikit_learn_is_not_exported(
    fitted: tuple[Any, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    pipeline, matrices = fitted
    nodes = pipeline[-1]._predictors[0][0].nodes  # pylint: disable=protected-access
    to_onnx = onnx_export.to_onnx
    # The graph with context is right; the single-row graph has trees with a changed first leaf.
    leaf = int(np.flatnonzero(nodes["is_leaf"])[0])

    def wrong(fitted_pipeline: Any, *, context: bool = True) -> bytes:
        if context:
            return to_onnx(fitted_pipeline)
        nodes["value"][leaf] += 1e-3
        try:
            return to_onnx(fitted_pipeline, context=False)
        finally:
            nodes["value"][leaf] -= 1e-3

    monkeypatch.setattr(onnx_export, "to_onnx", wrong)
    with pytest.raises(onnx_export.ParityError, match="differs from scikit-learn by .*, at most 1e-09 is allowed"):
        onnx_export.export(pipeline, matrices)


def test_a_value_equal_to_a_threshold_takes_the_lower_branch(fitted: tuple[Any, Any]) -> None:
    pipeline, _ = fitted
    root = pipeline[-1]._predictors[0][0].nodes[0]  # pylint: disable=protected-access
    row = np.full((3, len(feature_names())), np.nan)
    row[:, pipeline[0].kw_args["indices"][root["feature_idx"]]] = root["num_threshold"] + np.array([0.0, -1e-9, 1e-9])
    fcst = model.run(model.session(onnx_export.to_onnx(pipeline)), row)
    assert fcst[0] == fcst[1]
    np.testing.assert_allclose(fcst, pipeline.predict_proba(row)[:, 1], atol=1e-12)


def test_the_graph_is_double_precision_and_valid(fitted: tuple[Any, Any]) -> None:
    graph = onnx.load_from_string(onnx_export.to_onnx(fitted[0]))
    onnx.checker.check_model(graph, full_check=True)
    kinds = {onnx.TensorProto.DataType.Name(value.type.tensor_type.elem_type) for value in graph.graph.input}
    assert kinds == {"DOUBLE"}


def test_a_graph_that_differs_from_scikit_learn_is_not_exported(
    fitted: tuple[Any, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    pipeline, matrices = fitted
    right = {context: onnx_export.to_onnx(pipeline, context=context) for context in (True, False)}
    monkeypatch.setattr(onnx_export, "to_onnx", lambda _fitted, *, context=True: right[context])
    onnx_export.export(pipeline, matrices)
    classifier = pipeline[-1]
    moved = classifier._baseline_prediction + 1e-6  # pylint: disable=protected-access
    monkeypatch.setattr(classifier, "_baseline_prediction", moved)
    with pytest.raises(onnx_export.ParityError, match="differs from scikit-learn by .*, at most 1e-09 is allowed"):
        onnx_export.export(pipeline, matrices)


@pytest.mark.parametrize("difference", [2e-9, np.nan])
def test_parity_allows_a_difference_below_a_billionth(difference: float) -> None:
    onnx_export.check_parity(np.array([0.5]), np.array([0.5 + 0.9e-9]))
    with pytest.raises(onnx_export.ParityError):
        onnx_export.check_parity(np.array([0.5]), np.array([0.5 + difference]))


def test_trees_without_a_split_are_exported_as_constants(dated: Table) -> None:
    matrices = {SINGLE_ROW: forms.form_matrices(dated)[SINGLE_ROW]}
    rows = np.arange(len(dated["Location"])) < 1000
    config = ModelConfig(iterations=20, min_samples_leaf=480, max_features=0.02, l2_regularization=0.0)
    fitted = fit.fit_trees(matrices, dated["RainTomorrow"], rows, config)
    sizes = [len(tree[0].nodes) for tree in fitted.named_steps["classifier"]._predictors]  # pylint: disable=protected-access
    assert 1 in sizes
    assert max(sizes) > 1
    onnx_export.export(fitted, matrices)


def test_too_few_observations_to_learn_from_are_an_error(dated: Table) -> None:
    matrices = forms.form_matrices(dated)
    rows = np.arange(len(dated["Location"])) < 100
    fitted = fit.fit_trees(matrices, dated["RainTomorrow"], rows, ModelConfig(iterations=3, min_samples_leaf=400))
    with pytest.raises(ObservationError, match="too few observations to learn from"):
        onnx_export.export(fitted, matrices)
