"""Small requests that come together share one call of the trees."""

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
from raincast.serving.forecaster import FORECAST, Response
from tests.integration.serving import body_of, many

HEADERS = {b"content-type": b"application/json"}


@pytest.fixture(name="service")
def fixture_service(trained: Path, tmp_path: Path) -> Iterator[Service]:
    """The service's application, whose log goes to a file."""
    with (tmp_path / "log").open("w", encoding="utf-8") as log, redirect_stdout(log):
        with closing(Service(model.load(trained))) as service:
            yield service


def answered(service: Service, bodies: list[bytes]) -> list[Response]:
    """The answers to requests that come together, in their order."""
    responses: dict[int, Response] = {}

    def respond(number: int) -> Callable[[Response, str], None]:
        return lambda response, _: responses.update({number: response})

    async def together() -> None:
        for number, body in enumerate(bodies):
            service.fast_path.submit(FastRequest(FORECAST, HEADERS, respond(number), [body]))
        # Responses come without a flush by hand, before the loop waits.
        await asyncio.sleep(0)

    asyncio.run(together())
    return [responses[number] for number in range(len(bodies))]


def test_requests_of_one_observation_share_a_call(service: Service, monkeypatch: pytest.MonkeyPatch) -> None:
    bodies = [body_of([row]) for row in many(5)]
    alone = [answered(service, [body])[0].body for body in bodies]
    calls: list[int] = []
    shared = model.Model.single_row_probabilities

    def counted(self: model.Model, matrices: Any) -> list[float]:
        calls.append(len(matrices))
        return shared(self, matrices)

    monkeypatch.setattr(model.Model, "single_row_probabilities", counted)
    answers = answered(service, [*bodies[:2], body_of(many(2)), b"{", *bodies[2:]])
    assert calls == [5]
    assert [answer.status for answer in answers] == [200, 200, 200, 400, 200, 200, 200]
    found = [json.loads(answer.body)["forecasts"] for answer in [*answers[:2], *answers[4:]]]
    for forecasts, body in zip(found, alone, strict=True):
        (expected,) = json.loads(body)["forecasts"]
        assert forecasts[0]["probability_of_rain"] == pytest.approx(expected["probability_of_rain"], rel=0, abs=1e-12)


def test_a_call_that_fails_is_told_to_all_and_shown_once(
    service: Service, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    def failing(_: model.Model, matrices: Any) -> list[float]:
        raise MemoryError(f"no room for {len(matrices)}")

    monkeypatch.setattr(model.Model, "single_row_probabilities", failing)
    answers = answered(service, [body_of([row]) for row in many(3)])
    assert [(answer.status, answer.kind) for answer in answers] == [(500, "internal")] * 3
    shown = capfd.readouterr().err
    assert shown.count("Traceback") == 1
    assert "no room for 3" in shown
    assert service.metrics.errors["internal"] == 3
