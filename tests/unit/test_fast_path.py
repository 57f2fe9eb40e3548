"""The fast path: requests of one observation that arrive together share one call of onnxruntime."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Iterator
from contextlib import closing, redirect_stdout
from pathlib import Path
from typing import Any

import pytest

from raincast.forecasting import model
from raincast.serving.app import Service
from raincast.serving.fast_path import FastRequest
from raincast.serving.forecaster import FORECAST, Response, SingleRow
from tests.integration.serving import body_of, many

HEADERS = {b"content-type": b"application/json"}


@pytest.fixture(name="service")
def fixture_service(trained: Path, tmp_path: Path) -> Iterator[Service]:
    """Start the application with its log in a file."""
    with (tmp_path / "log").open("w", encoding="utf-8") as log, redirect_stdout(log):
        with closing(Service(model.load(trained))) as service:
            yield service


def respond_to(service: Service, bodies: list[bytes]) -> list[Response]:
    """Return the responses to requests that arrive together, in their order, without those that it does not take."""
    responses: dict[int, Response] = {}

    def respond(number: int) -> Callable[[Response, str], None]:
        return lambda response, _: responses.update({number: response})

    async def submit_all() -> None:
        for number, body in enumerate(bodies):
            service.fast_path.takes(FastRequest(FORECAST, HEADERS, body, respond(number)))
        # The loop flushes by itself before it waits.
        await asyncio.sleep(0)

    asyncio.run(submit_all())
    return [response for _, response in sorted(responses.items())]


def test_requests_of_one_observation_share_a_call(service: Service, monkeypatch: pytest.MonkeyPatch) -> None:
    bodies = [body_of([row]) for row in many(5)]
    separate = [respond_to(service, [body])[0].body for body in bodies]
    calls: list[int] = []
    single_row_probabilities = model.Model.single_row_probabilities

    def counted(self: model.Model, matrices: Any) -> list[float]:
        calls.append(len(matrices))
        return single_row_probabilities(self, matrices)

    monkeypatch.setattr(model.Model, "single_row_probabilities", counted)
    responses = respond_to(service, [*bodies[:2], body_of(many(2)), b"{", *bodies[2:]])
    assert calls == [5]
    assert [response.status for response in responses] == [200] * 5
    shared_forecasts = [json.loads(response.body)["forecasts"] for response in responses]
    for forecasts, body in zip(shared_forecasts, separate, strict=True):
        (expected,) = json.loads(body)["forecasts"]
        assert forecasts[0]["probability_of_rain"] == pytest.approx(expected["probability_of_rain"], rel=0, abs=1e-12)


def test_a_failing_call_fails_all_its_requests_and_is_shown_once(
    service: Service, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    def failing(_: model.Model, matrices: Any) -> list[float]:
        raise MemoryError(f"no room for {len(matrices)}")

    monkeypatch.setattr(model.Model, "single_row_probabilities", failing)
    responses = respond_to(service, [body_of([row]) for row in many(3)])
    assert [(response.status, response.kind) for response in responses] == [(500, "internal")] * 3
    shown = capfd.readouterr().err
    assert shown.count("Traceback") == 1
    assert "no room for 3" in shown
    assert service.metrics.errors["internal"] == 3


def test_failing_metrics_and_logs_cost_no_response(
    service: Service, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    def failing(*_: Any) -> None:
        raise ValueError("cannot count")

    for name in ("forecast_row", "responded"):
        with monkeypatch.context() as patch:
            patch.setattr(service.metrics, name, failing)
            responses = respond_to(service, [body_of([row]) for row in many(3)])
        assert [response.status for response in responses] == [200] * 3
        assert capfd.readouterr().err.count("ValueError: cannot count") == 3
    assert service.metrics.errors["internal"] == 6


def test_a_response_that_cannot_be_completed_fails_alone(service: Service, monkeypatch: pytest.MonkeyPatch) -> None:
    complete = service.forecaster.complete

    def failing(single: SingleRow, probability: float) -> Response:
        if single.row["Humidity3pm"] == 1:
            raise ValueError("cannot complete")
        return complete(single, probability)

    monkeypatch.setattr(service.forecaster, "complete", failing)
    assert [response.status for response in respond_to(service, [body_of([row]) for row in many(3)])] == [200, 500, 200]


def test_an_unexpected_error_of_a_body_is_left_to_the_asgi_path(
    service: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    def failing(*_: Any) -> None:
        raise ValueError("cannot decode")

    monkeypatch.setattr(service.forecaster, "single_row", failing)
    assert not respond_to(service, [body_of([row]) for row in many(1)])
