"""Training: forms, splits, the fit and its export."""

from __future__ import annotations

import datetime as dt
import io
import json
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import joblib
import numpy as np
import onnx
import pandas as pd
import pytest
from onnxruntime.capi.onnxruntime_pybind11_state import InvalidArgument  # pylint: disable=no-name-in-module
from sklearn.pipeline import Pipeline

from raincast.features.build import build_features, context_mask, feature_names, own_feature_count
from raincast.forecasting import forecast, model
from raincast.observations import reading
from raincast.observations.errors import ObservationError
from raincast.observations.table import Table, as_known_at_3pm, take
from raincast.training import bundle, fit, forms, onnx_export, sklearn_pipeline, splits
from raincast.training.config import ModelConfig
from raincast.training.forms import CONTEXT, CONTEXT_3PM, SINGLE_ROW, SINGLE_ROW_3PM
from raincast.verification import Array

CONFIG = ModelConfig(iterations=12, max_leaf_nodes=15)


@pytest.fixture(name="undated", scope="module")
def fixture_undated(slice_csv: Path) -> Table:
    """Real rows without dates, RainTomorrow among the columns."""
    return reading.read(slice_csv, target=True)


@pytest.fixture(name="dated", scope="module")
def fixture_dated(undated: Table) -> Table:
    """The same rows with a date each, every station's from the same day on: for neighbours and history."""
    dates = np.datetime64("2010-01-01") + np.arange(len(undated["Location"])) % 600
    return undated | {"Date": dates.astype("datetime64[D]")}


@pytest.fixture(name="fitted", scope="module")
def fixture_fitted(dated: Table) -> tuple[Pipeline, dict[str, Array]]:
    """A small classifier on all four forms, with the matrices."""
    matrices = forms.form_matrices(dated)
    rows = np.ones(len(dated["Location"]), dtype=bool)
    return fit.fit_trees(matrices, dated["RainTomorrow"], rows, CONFIG), matrices


@pytest.fixture(name="contextual", scope="module")
def fixture_contextual(dated: Table, fitted: tuple[Pipeline, dict[str, Array]]) -> tuple[Pipeline, dict[str, Array]]:
    """A small classifier of what mostly the neighbours know, so that many of its splits are on context."""
    matrices = {CONTEXT: fitted[1][CONTEXT]}
    names = feature_names()
    humidity = matrices[CONTEXT][:, names.index("Humidity3pm_within_250km")]
    since = matrices[CONTEXT][:, names.index("Pressure3pm_since_yesterday")]
    obs = np.where(humidity + 2 * since > 55, 1.0, dated["RainTomorrow"])
    rows = ~np.isnan(obs)
    return fit.fit_trees(matrices, obs, rows, replace(CONFIG, max_features=0.9)), matrices


def test_dated_rows_come_in_four_forms_and_undated_in_two(dated: Table, undated: Table) -> None:
    assert list(forms.form_matrices(dated)) == [CONTEXT, SINGLE_ROW, CONTEXT_3PM, SINGLE_ROW_3PM]
    assert list(forms.form_matrices(undated)) == [SINGLE_ROW, SINGLE_ROW_3PM]


def test_each_form_is_what_serving_makes_of_such_an_observation(dated: Table) -> None:
    matrices = forms.form_matrices(dated)
    for row in (0, 700, 4321):
        alone = take(dated, slice(row, row + 1))
        np.testing.assert_array_equal(matrices[SINGLE_ROW][row], build_features(alone)[0])
        np.testing.assert_array_equal(matrices[SINGLE_ROW_3PM][row], build_features(as_known_at_3pm(alone))[0])
    np.testing.assert_array_equal(matrices[CONTEXT_3PM], build_features(as_known_at_3pm(dated)))


def test_nothing_of_the_afternoon_is_in_the_3_pm_forms(dated: Table) -> None:
    later = ("MaxTemp", "Sunshine", "WindGust", "gust", "sunshine", "temperature_range")
    columns = [i for i, name in enumerate(feature_names()) if any(word in name for word in later)]
    assert len(columns) > 10
    matrices = forms.form_matrices(dated)
    assert np.isnan(matrices[CONTEXT_3PM][:, columns]).all()
    assert np.isnan(matrices[CONTEXT][:, columns]).all(axis=0).mean() < 0.2


def test_the_last_share_of_undated_rows_is_the_last_of_each_station(undated: Table) -> None:
    last = splits.last_share(undated, 0.2)
    for name in np.unique(undated["Location"]):
        of_station = last[undated["Location"] == name]
        assert of_station.tolist() == [False] * 480 + [True] * 120


def test_the_last_share_of_dated_rows_is_a_period_for_all_stations(dated: Table) -> None:
    last = splits.last_share(dated, 0.2)
    assert dated["Date"][~last].max() < dated["Date"][last].min()
    assert last.mean() == pytest.approx(0.2, abs=0.01)


def test_a_share_among_some_rows_takes_none_of_the_others(dated: Table) -> None:
    among = dated["Date"] < np.datetime64("2010-06-01")
    last = splits.last_share(dated, 0.25, among)
    assert not (last & ~among).any()
    assert dated["Date"][among & ~last].max() < dated["Date"][last].min()


def test_verification_starts_on_the_day_that_was_asked_for(dated: Table) -> None:
    known, verified = splits.split(dated, dated["RainTomorrow"], CONFIG, "2011-02-03")
    assert dated["Date"][verified].min() == np.datetime64("2011-02-03")
    assert dated["Date"][known].max() == np.datetime64("2011-02-02")


def test_rows_without_an_outcome_are_neither_fitted_nor_verified(undated: Table) -> None:
    obs = undated["RainTomorrow"].copy()
    obs[::7] = np.nan
    known, verified = splits.split(undated, obs, CONFIG)
    assert not (known & verified).any()
    np.testing.assert_array_equal(known | verified, ~np.isnan(obs))


@pytest.mark.parametrize(
    ("day", "message"),
    [
        ("2017-02-30", "'2017-02-30' is not a date"),
        ("soon", "'soon' is not a date"),
        ("2030-01-01", "the verification period has 0 rain days and 0 dry days"),
        ("2010-01-01", "the training period has 0 rain days and 0 dry days"),
    ],
)
def test_an_impossible_verification_period_is_refused(day: str, message: str, dated: Table) -> None:
    with pytest.raises(ObservationError, match=message):
        splits.split(dated, dated["RainTomorrow"], CONFIG, day)


def test_a_period_without_rain_cannot_be_verified(undated: Table) -> None:
    obs = np.where(splits.last_share(undated, CONFIG.verification_share), 0.0, undated["RainTomorrow"])
    with pytest.raises(ObservationError, match="the verification period has 0 rain days and 1200 dry days"):
        splits.split(undated, obs, CONFIG)


def test_a_validation_period_without_rain_gives_no_threshold(undated: Table) -> None:
    rows = np.ones(len(undated["Location"]), dtype=bool)
    obs = np.where(splits.last_share(undated, CONFIG.validation_share), 0.0, undated["RainTomorrow"])
    with pytest.raises(ObservationError, match="the validation period at the end of the training has 0 rain days"):
        fit.choose_threshold(undated, forms.form_matrices(undated), obs, rows, CONFIG)


def test_a_verification_date_needs_dates(undated: Table) -> None:
    with pytest.raises(ObservationError, match="rows without a date"):
        splits.split(undated, undated["RainTomorrow"], CONFIG, "2015-01-01")


def test_the_threshold_comes_from_training_rows_alone(dated: Table) -> None:
    obs = dated["RainTomorrow"]
    rows, _ = splits.split(dated, obs, CONFIG)
    matrices = forms.form_matrices(dated)
    turned = np.where(rows, obs, 1 - obs)
    threshold = fit.choose_threshold(dated, matrices, obs, rows, CONFIG)
    assert fit.choose_threshold(dated, matrices, turned, rows, CONFIG) == threshold
    assert 0 < threshold < 1


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
def test_the_graph_of_a_row_forecasts_what_the_whole_does_without_context(
    seed: int, learned: str, request: pytest.FixtureRequest
) -> None:
    pipeline, matrices = request.getfixturevalue(learned)
    whole = model.session(onnx_export.to_onnx(pipeline))
    row = model.session(onnx_export.to_onnx(pipeline, context=False))
    for matrix in (onnx_export.random_rows(pipeline, 3000, seed), *matrices.values()):
        alone = np.where(context_mask(), np.nan, matrix)
        own = np.ascontiguousarray(matrix[:, : own_feature_count()])
        np.testing.assert_allclose(model.run(row, own), model.run(whole, alone), atol=1e-12, rtol=0)
        np.testing.assert_allclose(model.run(row, own), pipeline.predict_proba(alone)[:, 1], atol=1e-12, rtol=0)
    # What is left out matters to rows with context.
    own = np.ascontiguousarray(matrices[CONTEXT][:, : own_feature_count()])
    assert np.abs(model.run(row, own) - model.run(whole, matrices[CONTEXT])).max() > 0.01


def _split_features(graph: bytes) -> np.ndarray:
    (node,) = [node for node in onnx.load_from_string(graph).graph.node if node.op_type == "TreeEnsemble"]
    (used,) = [attribute.ints for attribute in node.attribute if attribute.name == "nodes_featureids"]
    return np.array(used)


def test_the_graph_of_a_row_has_no_split_on_context_and_is_smaller(
    contextual: tuple[Any, Any],
) -> None:
    pipeline, _ = contextual
    whole, row = (_split_features(onnx_export.to_onnx(pipeline, context=context)) for context in (True, False))
    assert (whole >= own_feature_count()).sum() > 50
    assert (row < own_feature_count()).all()
    assert 0 < len(row) <= (whole < own_feature_count()).sum()


def test_the_graphs_take_exactly_their_features(fitted: tuple[Any, Any]) -> None:
    graphs = onnx_export.export(*fitted)
    assert sorted(graphs) == ["model-row.onnx", "model.onnx"]
    widths = {model.GRAPH: len(feature_names()), model.ROW_GRAPH: own_feature_count()}
    for name, width in widths.items():
        session = model.session(graphs[name])
        (given,) = session.get_inputs()
        assert (given.name, given.shape, given.type) == (model.INPUT, ["rows", width], "tensor(double)")
        assert model.run(session, np.full((2, width), np.nan)).shape == (2,)
        for other in (width - 1, width + 1):
            with pytest.raises(InvalidArgument, match="Got invalid dimensions for input"):
                model.run(session, np.full((2, other), np.nan))


def test_a_graph_of_a_row_that_forecasts_otherwise_is_not_exported(
    fitted: tuple[Any, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    pipeline, matrices = fitted
    nodes = pipeline[-1]._predictors[0][0].nodes  # pylint: disable=protected-access
    to_onnx = onnx_export.to_onnx
    # The whole graph is right; that of a row is made of trees whose first leaf says a little more.
    leaf = int(np.flatnonzero(nodes["is_leaf"])[0])

    def wrong(given: Any, *, context: bool = True) -> bytes:
        if context:
            return to_onnx(given)
        nodes["value"][leaf] += 1e-3
        try:
            return to_onnx(given, context=False)
        finally:
            nodes["value"][leaf] -= 1e-3

    monkeypatch.setattr(onnx_export, "to_onnx", wrong)
    with pytest.raises(onnx_export.ParityError, match="differs from scikit-learn by .*, allowed is 1e-09"):
        onnx_export.export(pipeline, matrices)


def test_the_description_holds_what_scikit_learn_forecasts_for_the_example(
    contextual: tuple[Any, Any],
) -> None:
    pipeline, matrices = contextual
    graphs = {name: model.session(content) for name, content in onnx_export.export(pipeline, matrices).items()}
    loaded = model.Model(graphs[model.GRAPH], graphs[model.ROW_GRAPH], {"parity": sklearn_pipeline.parity(pipeline)})
    forecast.check_parity(loaded)
    parity = loaded.description["parity"]
    assert json.loads(json.dumps(parity)) == parity
    # Its two stations are neighbours: together they are forecast otherwise than alone.
    assert parity["together"] != parity["alone"]


def test_a_value_on_a_threshold_takes_the_branch_below(fitted: tuple[Any, Any]) -> None:
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


def test_a_graph_that_forecasts_otherwise_is_not_exported(
    fitted: tuple[Any, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    pipeline, matrices = fitted
    right = {context: onnx_export.to_onnx(pipeline, context=context) for context in (True, False)}
    monkeypatch.setattr(onnx_export, "to_onnx", lambda _fitted, *, context=True: right[context])
    onnx_export.export(pipeline, matrices)
    classifier = pipeline[-1]
    moved = classifier._baseline_prediction + 1e-6  # pylint: disable=protected-access
    monkeypatch.setattr(classifier, "_baseline_prediction", moved)
    with pytest.raises(onnx_export.ParityError, match="differs from scikit-learn by .*, allowed is 1e-09"):
        onnx_export.export(pipeline, matrices)


@pytest.mark.parametrize("difference", [2e-9, np.nan])
def test_parity_is_a_matter_of_a_billionth(difference: float) -> None:
    onnx_export.check_parity(np.array([0.5]), np.array([0.5 + 0.9e-9]))
    with pytest.raises(onnx_export.ParityError):
        onnx_export.check_parity(np.array([0.5]), np.array([0.5 + difference]))


def test_the_same_data_gives_the_same_bytes(dated: Table, fitted: tuple[Any, Any]) -> None:
    pipeline, matrices = fitted
    rows = np.ones(len(dated["Location"]), dtype=bool)
    again = fit.fit_trees(matrices, dated["RainTomorrow"], rows, CONFIG)
    assert onnx_export.to_onnx(again) == onnx_export.to_onnx(pipeline)


def test_features_that_no_row_has_are_left_out_and_do_no_harm(undated: Table, dated: Table) -> None:
    matrices = forms.form_matrices(undated)
    rows = np.ones(len(undated["Location"]), dtype=bool)
    fitted = fit.fit_trees(matrices, undated["RainTomorrow"], rows, replace(CONFIG, iterations=3))
    chosen = fitted.named_steps["present"].kw_args["indices"]
    assert not context_mask()[chosen].any()
    graph = model.session(onnx_export.export(fitted, matrices)[model.GRAPH])
    np.testing.assert_array_equal(
        model.run(graph, matrices[SINGLE_ROW]), model.run(graph, forms.form_matrices(dated)[CONTEXT])
    )


def test_trees_without_a_split_are_exported_as_what_they_add(dated: Table) -> None:
    matrices = {SINGLE_ROW: forms.form_matrices(dated)[SINGLE_ROW]}
    rows = np.arange(len(dated["Location"])) < 1000
    config = ModelConfig(iterations=20, min_samples_leaf=480, max_features=0.02, l2_regularization=0.0)
    fitted = fit.fit_trees(matrices, dated["RainTomorrow"], rows, config)
    sizes = [len(tree[0].nodes) for tree in fitted.named_steps["classifier"]._predictors]  # pylint: disable=protected-access
    assert 1 in sizes
    assert max(sizes) > 1
    onnx_export.export(fitted, matrices)


def test_too_few_observations_to_learn_from_are_said(dated: Table) -> None:
    matrices = forms.form_matrices(dated)
    rows = np.arange(len(dated["Location"])) < 100
    fitted = fit.fit_trees(matrices, dated["RainTomorrow"], rows, ModelConfig(iterations=3, min_samples_leaf=400))
    with pytest.raises(ObservationError, match="too few observations to learn from"):
        onnx_export.export(fitted, matrices)


def test_the_saved_pipeline_takes_a_frame_of_observations(
    fitted: tuple[Any, Any], dated: Table, slice_csv: Path
) -> None:
    whole = joblib.load(io.BytesIO(sklearn_pipeline.dumped(sklearn_pipeline.pipeline(fitted[0]))))
    frame = pd.read_csv(slice_csv).assign(Date=pd.to_datetime(dated["Date"]))
    expected = fitted[0].predict_proba(fitted[1][CONTEXT])
    np.testing.assert_allclose(whole.predict_proba(frame), expected, atol=1e-12)
    with pytest.raises(ObservationError, match="DataFrame: there is no column Location"):
        whole.predict_proba(frame.drop(columns="Location"))


@pytest.mark.parametrize(
    ("data", "name"),
    [
        ("/somewhere/private/record.csv.gz", "record.csv.gz"),
        ("https://example.org:8443/a/b.csv", "https://example.org:8443/a/b.csv"),
    ],
)
def test_the_description_names_the_data_but_no_folder(data: str, name: str, undated: Table) -> None:
    rows = np.arange(len(undated["Location"])) < 100
    description = bundle.provenance(CONFIG, undated, rows, data, "abc")
    assert description["data"] == name
    assert description["rows"] == 100
    assert description["config"]["iterations"] == 12


def test_the_description_says_when_unless_it_is_told(undated: Table, monkeypatch: pytest.MonkeyPatch) -> None:
    rows = np.arange(len(undated["Location"])) < 100
    monkeypatch.delenv("SOURCE_DATE_EPOCH", raising=False)
    before = int(time.time())
    trained = bundle.provenance(CONFIG, undated, rows, "data.csv", "abc")["trained"]
    assert before <= dt.datetime.fromisoformat(trained).timestamp() <= time.time()
    monkeypatch.setenv("SOURCE_DATE_EPOCH", "1767225600")
    told = bundle.provenance(CONFIG, undated, rows, "data.csv", "abc")
    assert told["trained"] == "2026-01-01T00:00:00Z"
    assert told == bundle.provenance(CONFIG, undated, rows, "data.csv", "abc")
