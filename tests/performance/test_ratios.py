"""Speed as ratios of medians, measured in turns in one process: a busy machine slows both sides of a ratio.

The limits are far from the measurements on a quiet machine (docs/decisions.md), so that only a change that users notice
fails.
"""

from __future__ import annotations

import asyncio
import json
import os
import statistics
import time
from collections.abc import Awaitable, Callable, Iterator
from contextlib import closing, redirect_stdout
from pathlib import Path
from typing import Any

import joblib
import numpy as np
import pandas as pd
import pytest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route
from threadpoolctl import threadpool_limits

from raincast.features.build import build_features, row_features
from raincast.forecasting import model
from raincast.serving.app import Service
from raincast.serving.fast_path import FastRequest
from raincast.serving.forecaster import Response as ForecastResponse
from raincast.serving.openapi import EXAMPLE
from raincast.training import sklearn_pipeline

WARM_UP = 5
# Time of a forecast relative to a route that does nothing: through ASGI, and on the fast path.
MAX_RATIO, MAX_RATIO_FAST_PATH = 7.0, 6.0
FORECAST = "/forecast"
HEADERS = {b"host": b"test", b"content-type": b"application/json"}
BODY = json.dumps({"observations": [EXAMPLE[0]]}).encode()


def slowness(ours: Callable[[], object], theirs: Callable[[], object], calls: int) -> float:
    """Return the ratio of the median times of single calls, ours / theirs, one of each in turn.

    Interruptions, frequent on a busy machine, affect single calls on either side and not the medians.
    """

    def seconds(call: Callable[[], object]) -> float:
        start = time.perf_counter()
        call()
        return time.perf_counter() - start

    times = [(seconds(ours), seconds(theirs)) for _ in range(calls + WARM_UP)][WARM_UP:]
    return statistics.median(a for a, _ in times) / statistics.median(b for _, b in times)


@pytest.fixture(name="loaded", scope="module")
def fixture_loaded(trained: Path) -> model.Model:
    """Load the model."""
    return model.load(trained)


@pytest.fixture(name="service", scope="module")
def fixture_service(loaded: model.Model) -> Iterator[Service]:
    """Return the service in this process, with its request log discarded."""
    with open(os.devnull, "w", encoding="utf-8") as nowhere, redirect_stdout(nowhere):
        service = Service(loaded)
        with closing(service):
            yield service


@pytest.fixture(name="no_op", scope="module")
def fixture_no_op() -> Starlette:
    """Return an application with one route that reads the body and responds: the cost of Starlette."""

    async def forecast(request: Request) -> Response:
        await request.body()
        return Response(b"{}", media_type="application/json")

    return Starlette(routes=[Route(FORECAST, forecast, methods=["POST"])])


def asked(app: Callable[..., Awaitable[None]]) -> bytes:
    """Return the body of an application's response to BODY, without a server and a network."""
    scope = {
        "type": "http", "asgi": {"version": "3.0"}, "http_version": "1.1", "method": "POST", "scheme": "http",
        "path": FORECAST, "raw_path": FORECAST.encode(), "query_string": b"", "root_path": "",
        "headers": list(HEADERS.items()), "client": ("127.0.0.1", 1), "server": ("127.0.0.1", 2), "state": {},
    }  # fmt: skip
    sent: list[Any] = []

    async def receive() -> Any:
        return {"type": "http.request", "body": BODY, "more_body": False}

    async def send(message: Any) -> None:
        sent.append(message)

    coroutine = app(scope, receive, send)
    # No application waits for anything: one step runs to the end.
    with pytest.raises(StopIteration):
        coroutine.send(None)  # type: ignore[attr-defined]
    assert sent[0]["status"] == 200
    return b"".join(message.get("body", b"") for message in sent[1:])


def test_a_forecast_of_one_record_costs_little_compared_with_starlette(service: Service, no_op: Starlette) -> None:
    assert asked(no_op) == b"{}"
    assert b"probability_of_rain" in asked(service)
    ratio = slowness(lambda: asked(service), lambda: asked(no_op), calls=3_000)
    assert ratio <= MAX_RATIO, (
        f"a forecast of one record takes {ratio:.1f} times as long as a route that does nothing; at most {MAX_RATIO}"
    )


def test_the_fast_path_of_one_record_costs_little_compared_with_starlette(service: Service, no_op: Starlette) -> None:
    def on_fast_path() -> ForecastResponse:
        responses: list[ForecastResponse] = []
        request = FastRequest(FORECAST, HEADERS, BODY, lambda response, _: responses.append(response))
        assert service.fast_path.takes(request)
        service.fast_path.flush()
        return responses.pop()

    async def measured() -> float:
        response = on_fast_path()
        assert (response.status, response.rows) == (200, 1)
        return slowness(on_fast_path, lambda: asked(no_op), calls=3_000)

    ratio = asyncio.run(measured())
    assert ratio <= MAX_RATIO_FAST_PATH, (
        f"the fast path takes {ratio:.1f} times as long as a route that does nothing; at most {MAX_RATIO_FAST_PATH}"
    )


@pytest.mark.parametrize(("rows", "calls", "minimum"), [(1, 40, 10.0), (1_000, 20, 1.2)])
def test_forecasts_are_faster_than_those_of_the_scikit_learn_pipeline(
    loaded: model.Model, trained: Path, bundled_rows: list[dict[str, str]], rows: int, calls: int, minimum: float
) -> None:
    pipeline = joblib.load(trained / model.PIPELINE)
    frame = pd.DataFrame(bundled_rows[-rows:])
    table = sklearn_pipeline.table_from_frame(frame)
    row = {name: values[0].item() for name, values in table.items()}

    def ours() -> Any:
        if rows == 1:
            return loaded.single_row_probabilities(row_features(row))
        return loaded.probability_of_rain(build_features(table))

    def theirs() -> Any:
        return pipeline[1:].predict_proba(pipeline[0].transform(frame))[:, 1]

    # One thread each, since the number of idle cores varies.
    with threadpool_limits(1):
        np.testing.assert_allclose(ours(), theirs(), atol=1e-9)
        ratio = 1 / slowness(ours, theirs, calls)
    assert ratio >= minimum, f"{rows} rows: {ratio:.2f} times as fast as the scikit-learn pipeline, at least {minimum}"
