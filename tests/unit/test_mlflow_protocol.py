"""The MLflow protocol: four shapes of the same observations, and a clear message for others."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from typing import Any
from unittest import mock

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from raincast.observations.errors import FormatError, ObservationError, TooMany
from raincast.observations.table import Table
from raincast.serving import decoding, mlflow_protocol
from raincast.serving.openapi import EXAMPLE
from tests.unit.bodies import Sent, as_table, assert_same, bodies, is_measured, is_regular, too_deep

UNTIMED = settings(deadline=None, derandomize=True)


def _names(sent: list[Sent]) -> list[str]:
    return list(dict.fromkeys(name for one in sent for name in one))


def _split(sent: list[Sent]) -> Any:
    columns = _names(sent)
    return {"columns": columns, "data": [[one.get(name) for name in columns] for one in sent]}


def _inputs(sent: list[Sent]) -> Any:
    return {name: [one.get(name) for one in sent] for name in _names(sent)}


SHAPES: dict[str, Callable[[list[Sent]], dict[str, Any]]] = {
    "dataframe_split": lambda sent: {"dataframe_split": _split(sent)},
    "dataframe_split with an index": lambda sent: {"dataframe_split": {"index": [7] * len(sent)} | _split(sent)},
    "dataframe_records": lambda sent: {"dataframe_records": sent},
    "instances": lambda sent: {"instances": sent},
    "inputs by column": lambda sent: {"inputs": _inputs(sent)},
    "inputs by row": lambda sent: {"inputs": sent},
    "with parameters": lambda sent: {"instances": sent, "params": {"a": 1}},
}
shapes = pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES)


def _decoded(document: Any) -> Table:
    observed, warned = mlflow_protocol.decode(json.dumps(document).encode())
    assert not warned
    return as_table(observed)


def _forecast_body(sent: list[Sent]) -> Table:
    return as_table(decoding.decode(json.dumps({"observations": sent}).encode())[0])


def _refusal(body: bytes) -> ObservationError:
    with pytest.raises(ObservationError) as caught:
        mlflow_protocol.decode(body)
    return caught.value


@shapes
@UNTIMED
@given(sent=bodies().filter(lambda sent: all(map(is_measured, sent))))
def test_every_shape_gives_the_table_of_the_same_observations(
    shape: Callable[[list[Sent]], dict[str, Any]], sent: list[Sent]
) -> None:
    assert_same(_decoded(shape(sent)), _forecast_body(sent))


@shapes
@UNTIMED
@given(sent=bodies().filter(lambda sent: all(map(is_measured, sent))))
def test_nan_is_a_missing_value_like_null(shape: Callable[[list[Sent]], dict[str, Any]], sent: list[Sent]) -> None:
    with_nan = [{name: math.nan if value is None else value for name, value in one.items()} for one in sent]
    assert_same(_decoded(shape(with_nan)), _forecast_body(sent))


@UNTIMED
@given(sent=bodies().filter(lambda sent: all(map(is_regular, sent))))
def test_a_regular_split_needs_no_records(sent: list[Sent]) -> None:
    with mock.patch.object(mlflow_protocol, "decode_records", side_effect=AssertionError("records were used")):
        assert_same(_decoded(SHAPES["dataframe_split"](sent)), _forecast_body(sent))


@pytest.mark.parametrize("second", ["null", "[]", '[{"Location": "Sydney", "Rainfall": 1}]'])
def test_a_split_with_another_shape_is_refused(second: str) -> None:
    split = json.dumps(_split(list(EXAMPLE)))
    assert "one of" in str(_refusal(f'{{"dataframe_split": {split}, "instances": {second}}}'.encode()))


@shapes
def test_one_observation_is_a_row_and_two_are_a_table(shape: Callable[[list[Sent]], dict[str, Any]]) -> None:
    for count in (1, 2):
        observed, _ = mlflow_protocol.decode(json.dumps(shape(list(EXAMPLE[:count]))).encode())
        assert decoding.is_row(observed) == (count == 1)


@shapes
def test_an_invalid_value_is_named_with_its_row_and_column(shape: Callable[[list[Sent]], dict[str, Any]]) -> None:
    document = shape([EXAMPLE[0], EXAMPLE[1] | {"Humidity3pm": 101}])
    error = _refusal(json.dumps(document).encode())
    assert str(error) == "the request: row 2, Humidity3pm: '101' is not a number, 0 to 100 %"
    assert [(violation.row, violation.column) for violation in error.violations] == [(2, "Humidity3pm")]


@shapes
def test_duplicate_observations_are_refused(shape: Callable[[list[Sent]], dict[str, Any]]) -> None:
    error = _refusal(json.dumps(shape([EXAMPLE[0]] * 2)).encode())
    assert "row 2, Date: Sydney on 2017-06-01 duplicates row 1" in str(error)


@shapes
def test_an_unknown_column_is_ignored_with_a_warning(shape: Callable[[list[Sent]], dict[str, Any]]) -> None:
    sent = [one | {"Mood": "good"} for one in EXAMPLE]
    observed, warned = mlflow_protocol.decode(json.dumps(shape(sent)).encode())
    assert warned == ["the request: 1 unknown column(s) ignored: Mood"]
    assert_same(as_table(observed), _forecast_body(list(EXAMPLE)))


@shapes
def test_outcomes_in_a_request_are_ignored(shape: Callable[[list[Sent]], dict[str, Any]]) -> None:
    sent = [one | {"RainTomorrow": "Yes", "RISK_MM": 12.5} for one in EXAMPLE]
    assert_same(_decoded(shape(sent)), _forecast_body(list(EXAMPLE)))


@shapes
@pytest.mark.parametrize("rows", [1, 2])
def test_observations_without_a_measurement_are_refused(
    shape: Callable[[list[Sent]], dict[str, Any]], rows: int
) -> None:
    sent = [{"Location": name, "Date": "2017-06-01"} for name in ("Sydney", "Perth")][:rows]
    error = _refusal(json.dumps(shape(sent)).encode())
    assert str(error).startswith("the request: there is no measurement, such as MinTemp")


@shapes
def test_more_observations_than_the_limit_are_refused(
    shape: Callable[[list[Sent]], dict[str, Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(decoding, "MAX_ROWS", 3)
    sent = [{"Location": "Sydney", "Rainfall": float(value)} for value in range(4)]
    assert _decoded(shape(sent[:3]))["Rainfall"].tolist() == [0.0, 1.0, 2.0]
    with pytest.raises(TooMany, match="4 observations, at most 3 are forecast in one request"):
        mlflow_protocol.decode(json.dumps(shape(sent)).encode())


ONE_OF = "a JSON object with one of dataframe_split, dataframe_records, instances, inputs is expected"
SPLIT = "dataframe_split needs columns, a list of names, and data, a list of rows"
COLUMNS = "inputs needs lists of the same length, one for each column"


@pytest.mark.parametrize(
    ("document", "message"),
    [
        ({}, ONE_OF),
        ([], ONE_OF),
        (None, ONE_OF),
        ("instances", ONE_OF),
        (["instances"], ONE_OF),
        ({"observations": [{"Location": "Sydney", "Rainfall": 1}]}, ONE_OF),
        ({"instances": [], "inputs": []}, ONE_OF),
        ({"dataframe_split": None}, SPLIT),
        ({"dataframe_split": [[1]]}, SPLIT),
        ({"dataframe_split": {}}, SPLIT),
        ({"dataframe_split": {"columns": ["Location", "Rainfall"]}}, SPLIT),
        ({"dataframe_split": {"data": [["Sydney", 1]]}}, SPLIT),
        ({"dataframe_split": {"columns": "Location", "data": [["Sydney"]]}}, SPLIT),
        ({"dataframe_split": {"columns": ["Location", 3], "data": [["Sydney", 1]]}}, SPLIT),
        ({"dataframe_split": {"columns": ["Location", "Rainfall"], "data": ["Sydney", 1]}}, SPLIT),
        ({"dataframe_split": {"columns": ["Location", "Rainfall"], "data": {"0": ["Sydney", 1]}}}, SPLIT),
        (
            {"dataframe_split": {"columns": ["Location", "Rainfall"], "data": [["Sydney", 1], ["Perth"]]}},
            "row 2 has 1 values, 2 are expected",
        ),
        (
            {"dataframe_split": {"columns": ["Location", "Rainfall"], "data": [["Sydney", 1, 2]]}},
            "row 1 has 3 values, 2 are expected",
        ),
        (
            {"dataframe_split": {"columns": ["Location", "Rainfall", "Rainfall"], "data": [["Sydney", 1, 2]]}},
            "duplicate column Rainfall",
        ),
        ({"dataframe_split": {"columns": ["Rainfall"], "data": [[1]]}}, "there is no column Location"),
        (
            {"dataframe_split": {"columns": ["Location", "Rainfall"], "data": []}},
            "the list of observations is empty",
        ),
        (
            {"dataframe_records": {"Location": ["Sydney"]}},
            "dataframe_records needs a list of observations, each an object",
        ),
        ({"dataframe_records": [["Sydney", 1]]}, "dataframe_records needs a list of observations, each an object"),
        ({"dataframe_records": []}, "the list of observations is empty"),
        ({"instances": {"Location": ["Sydney"]}}, "instances needs a list of observations, each an object"),
        ({"instances": [1.0, 2.0]}, "instances needs a list of observations, each an object"),
        ({"instances": [{"Location": "Sydney", "Rainfall": 1}, None]}, "instances needs a list of observations"),
        ({"instances": None}, "instances needs a list of observations, each an object"),
        ({"instances": []}, "the list of observations is empty"),
        ({"instances": [{"Rainfall": 1}]}, "there is no column Location"),
        ({"inputs": "Sydney"}, "inputs needs a list of observations, each an object"),
        ({"inputs": [["Sydney", 1]]}, "inputs needs a list of observations, each an object"),
        ({"inputs": {}}, COLUMNS),
        ({"inputs": {"Location": "Sydney", "Rainfall": 1}}, COLUMNS),
        ({"inputs": {"Location": ["Sydney"], "Rainfall": 1}}, COLUMNS),
        ({"inputs": {"Location": ["Sydney", "Perth"], "Rainfall": [1]}}, COLUMNS),
        ({"inputs": {"Location": [], "Rainfall": []}}, "the list of observations is empty"),
        ({"inputs": {"Rainfall": [1]}}, "there is no column Location"),
    ],
    ids=str,
)
def test_another_shape_is_refused_with_the_expected_one(document: Any, message: str) -> None:
    error = _refusal(json.dumps(document).encode())
    assert str(error).startswith(f"the request: {message}")
    assert not isinstance(error, FormatError)


@pytest.mark.parametrize("body", [b"", b"  ", b"{", b"instances", b'{"instances": [}', b'{"instances": []} x'])
def test_invalid_json_is_a_format_error(body: bytes) -> None:
    error = _refusal(body)
    assert isinstance(error, FormatError)
    assert str(error).startswith("the request: not valid JSON: ")


@pytest.mark.parametrize(
    "body",
    [b'{"instances": [{"Location": "\xff", "Rainfall": 1}]}', b'{"instances": [{"Loc\xc3": "Sydney"}]}', b'"\xff"'],
)
def test_a_body_that_is_not_utf_8_is_a_format_error(body: bytes) -> None:
    assert isinstance(_refusal(body), FormatError)


@pytest.mark.parametrize(
    "value", ["Infinity", "-Infinity", "1e999", "-1e999", "9" * 400, "9" * 5_000, "-" + "9" * 5_000]
)
def test_a_number_beyond_all_limits_is_refused(value: str) -> None:
    error = _refusal(f'{{"instances": [{{"Location": "Sydney", "MinTemp": {value}}}]}}'.encode())
    assert len(str(error)) < 300


@pytest.mark.parametrize("name", ["Rainfall", "RISK_MM", "Unknown"])
def test_a_value_of_any_depth_is_refused_or_ignored(name: str) -> None:
    before = f'{{"instances": [{{"Location": "Sydney", "MinTemp": 1, "{name}": '
    assert not too_deep(mlflow_protocol.decode, before, "}]}")


def test_a_body_of_far_too_many_values_is_refused_before_it_is_decoded() -> None:
    body = b'{"instances": [' + b",".join([b"{}"] * (4 * decoding.MAX_ROWS + 1)) + b"]}"
    with pytest.raises(TooMany, match="more values than 10000 observations have"):
        mlflow_protocol.decode(body)


@UNTIMED
@given(st.binary(max_size=200) | st.text(max_size=60).map(lambda text: f'{{"instances": [{text}]}}'.encode()))
def test_any_bytes_are_decoded_or_refused_with_a_message(body: bytes) -> None:
    try:
        observed, _ = mlflow_protocol.decode(body)
    except ObservationError as error:
        assert str(error).startswith("the request: ")
    else:
        assert not np.array_equal(as_table(observed)["Location"], [""])
