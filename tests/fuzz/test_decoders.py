"""Bodies of requests, valid and damaged: each gets a response, in which both decoders agree."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from raincast.forecasting import model
from raincast.observations.errors import ObservationError
from raincast.serving import decoding
from raincast.serving.forecaster import FORECAST, INVOCATIONS, Forecaster, Response, problem_response
from raincast.serving.problems import Problem
from tests.fuzz.mutations import as_columns, as_csv, as_json, as_json_lines, as_split, mutated, records
from tests.unit.bodies import as_table, assert_same, by_text

JSON = {b"content-type": b"application/json"}
CSV = {b"content-type": b"text/csv"}
FORECAST_BODIES = st.one_of(
    records.map(lambda rows: as_json({"observations": rows})),
    records.map(as_json),
    records.map(as_json_lines),
    # A column that nobody reads, with any bytes.
    st.binary(max_size=4).map(b'{"observations":[{"Location":"Sydney","Rainfall":1,"RISK_MM":"%b"}]}'.__mod__),
)
INVOCATION_BODIES = st.one_of(
    records.map(lambda rows: as_json({"dataframe_split": as_split(rows)})),
    records.map(lambda rows: as_json({"dataframe_records": rows})),
    records.map(lambda rows: as_json({"instances": rows})),
    records.map(lambda rows: as_json({"inputs": rows})),
    records.map(lambda rows: as_json({"inputs": as_columns(rows)})),
)


@pytest.fixture(name="forecaster", scope="module")
def fixture_forecaster(trained: Path) -> Forecaster:
    """Load the model."""
    return Forecaster(model.load(trained))


def respond(forecaster: Forecaster, path: str, headers: dict[bytes, bytes], body: bytes) -> Response:
    """Return the response to a body; no exception but Problem is handled."""
    try:
        return forecaster.respond(path, headers, body)
    except Problem as problem:
        return problem_response(path, problem)


def assert_response(response: Response) -> None:
    """Assert that a response has probabilities, or is a problem of the request."""
    document = json.loads(response.body)
    if response.status != 200:
        assert response.status in (400, 413, 415, 422), document
        assert document["detail"]
    elif "predictions" in document:
        assert all(0 <= p <= 1 and p + q == pytest.approx(1) for q, p in document["predictions"])
    else:
        assert all(0 <= line["probability_of_rain"] <= 1 for line in document["forecasts"])


@given(body=mutated(FORECAST_BODIES))
def test_every_json_body_gets_a_response(forecaster: Forecaster, body: bytes) -> None:
    assert_response(respond(forecaster, FORECAST, JSON, body))


@given(body=mutated(INVOCATION_BODIES))
def test_every_body_of_the_mlflow_protocol_gets_a_response(forecaster: Forecaster, body: bytes) -> None:
    assert_response(respond(forecaster, INVOCATIONS, JSON, body))


@given(body=mutated(records.map(as_csv)), path=st.sampled_from((FORECAST, INVOCATIONS)))
def test_every_csv_body_gets_a_response(forecaster: Forecaster, body: bytes, path: str) -> None:
    assert_response(respond(forecaster, path, CSV, body))


@given(body=mutated(FORECAST_BODIES))
def test_regular_and_full_decoding_agree(body: bytes) -> None:
    try:
        expected = by_text(body)
    except ObservationError as error:
        with pytest.raises(type(error)):
            decoding.decode(body)
    else:
        assert_same(as_table(decoding.decode(body)[0]), expected)
