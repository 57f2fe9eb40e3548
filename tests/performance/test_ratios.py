"""Speed as ratios of medians, measured in turns in one process: a busy machine slows both sides of a ratio.

What is asserted is far from what was measured on a quiet machine (docs/decisions.md), so that only a change of the
kind that users notice is red.
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
from raincast.serving.openapi import EXAMPLE
from raincast.training import sklearn_pipeline

WARM_UP = 5
# Times what a route that does nothing takes: through ASGI, and on the short way of small requests.
MOST, MOST_QUICK = 7.0, 6.0
FORECAST = "/forecast"
HEADERS = {b"host": b"test", b"content-type": b"application/json"}
BODY = json.dumps({"observations": [EXAMPLE[0]]}).encode()


def slowness(ours: Callable[[], object], theirs: Callable[[], object], calls: int) -> float:
    """How many times as long ours takes: the ratio of the medians over single calls, one of each in turn.

    A call that is interrupted, as on a busy machine many are, is one of many, on either side.
    """

    def seconds(call: Callable[[], object]) -> float:
        start = time.perf_counter()
        call()
        return time.perf_counter() - start

    times = [(seconds(ours), seconds(theirs)) for _ in range(calls + WARM_UP)][WARM_UP:]
    return statistics.median(a for a, _ in times) / statistics.median(b for _, b in times)


@pytest.fixture(name="loaded", scope="module")
def fixture_loaded(trained: Path) -> model.Model:
    """The model that serves."""
    return model.load(trained)


@pytest.fixture(name="service", scope="module")
def fixture_service(loaded: model.Model) -> Iterator[Service]:
    """The service in this process, its request log thrown away."""
    with open(os.devnull, "w", encoding="utf-8") as nowhere, redirect_stdout(nowhere):
        service = Service(loaded)
        with closing(service):
            yield service


@pytest.fixture(name="no_op", scope="module")
def fixture_no_op() -> Starlette:
    """A route that reads the body and answers: what Starlette costs alone."""

    async def forecast(request: Request) -> Response:
        await request.body()
        return Response(b"{}", media_type="application/json")

    return Starlette(routes=[Route(FORECAST, forecast, methods=["POST"])])


def asked(app: Callable[..., Awaitable[None]]) -> bytes:
    """The body that an application answers BODY with, without a server and a network."""
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
    # Neither waits for anything: one step runs to the end.
    with pytest.raises(StopIteration):
        coroutine.send(None)  # type: ignore[attr-defined]
    assert sent[0]["status"] == 200
    return b"".join(message.get("body", b"") for message in sent[1:])


def test_a_forecast_of_one_record_costs_little_beside_what_starlette_costs_alone(
    service: Service, no_op: Starlette
) -> None:
    assert asked(no_op) == b"{}"
    assert b"probability_of_rain" in asked(service)
    found = slowness(lambda: asked(service), lambda: asked(no_op), calls=3_000)
    assert found <= MOST, (
        f"a forecast of one record takes {found:.1f} times as long as a route that does nothing; at most {MOST}"
    )


def test_the_quick_way_of_one_record_is_in_the_range_of_a_route_that_does_nothing(
    service: Service, no_op: Starlette
) -> None:
    def quickly() -> Response:
        answers: list[Response] = []
        service.quick(FORECAST, HEADERS, BODY, time.perf_counter(), lambda answer, _: answers.append(answer))
        service.flush()
        answer = answers.pop()
        return answer

    async def measured() -> float:
        answer = quickly()
        assert (answer.status, answer.rows) == (200, 1)
        return slowness(quickly, lambda: asked(no_op), calls=3_000)

    found = asyncio.run(measured())
    assert found <= MOST_QUICK, (
        f"the quick way takes {found:.1f} times as long as a route that does nothing; at most {MOST_QUICK}"
    )


@pytest.mark.parametrize(("rows", "calls", "least"), [(1, 40, 10.0), (1_000, 20, 1.2)])
def test_forecasts_are_faster_than_those_of_the_scikit_learn_pipeline(
    loaded: model.Model, trained: Path, bundled_rows: list[dict[str, str]], rows: int, calls: int, least: float
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

    # One thread each: how many cores are free is not what is compared.
    with threadpool_limits(1):
        np.testing.assert_allclose(ours(), theirs(), atol=1e-9)
        found = 1 / slowness(ours, theirs, calls)
    assert found >= least, f"{rows} rows: {found:.2f} times as fast as the scikit-learn pipeline, at least {least}"
