"""The container under twice its capacity, stopped and started under load, and started many times.

`make load` runs these tests longer and more often. They print what they measure and assert no time.
"""

from __future__ import annotations

import asyncio
import os
import socket
import time
from collections import Counter
from collections.abc import Iterator

import pytest

from tests.deployment.load import Container, Prober, Tally, at_a_rate, container, docker, forecast, one_after_another
from tests.integration.serving import ROW, body_of, many

IMAGE = os.environ.get("IMAGE") or "raincast:local"
SECONDS = float(os.environ.get("LOAD_SECONDS", "2"))
STARTS = int(os.environ.get("LOAD_STARTS", "5"))
BUSY = 8


@pytest.fixture(name="image", scope="module")
def fixture_image(request: pytest.FixtureRequest) -> str:
    """The image under test: IMAGE, or the image of this checkout."""
    if "IMAGE" not in os.environ:
        request.getfixturevalue("image_folder")
    return IMAGE


@pytest.fixture(name="stopped")
def fixture_stopped(image: str) -> Iterator[Container]:
    """A container that is not started yet."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    with container(image, f"raincast-load-{port}", port, 0.5) as made:
        yield made


def overloaded(serving: Container, message: bytes, what: str) -> Tally:
    """Send requests at twice the rate that the container sustains, and return their outcomes."""

    async def run() -> Tally:
        end = time.monotonic() + SECONDS / 2
        before = await one_after_another(serving.port, message, BUSY, lambda: time.monotonic() < end)
        assert set(before.statuses) == {200} and not before.lost
        sustained = before.statuses[200] / (SECONDS / 2)
        start, count = time.monotonic(), int(2 * sustained * SECONDS) + 1
        tally = await at_a_rate(serving.port, message, 2 * sustained, count)
        lasted = time.monotonic() - start
        print(f"\n{what}: sustained {sustained:.0f}/s; {count} at twice the rate, done after {lasted:.1f} s: {tally}")
        assert sum(tally.statuses.values()) == count, serving.state()
        return tally

    return asyncio.run(run())


def test_twice_the_load_is_queued_or_shed_as_documented(stopped: Container) -> None:
    # A share of a core, so that the client can send more than the service can handle.
    docker("update", "--cpus", 0.2, stopped.name)
    stopped.start()
    tables = overloaded(stopped, forecast(many(1_000)), "1,000 observations each")
    assert not tables.lost and not tables.refused
    assert set(tables.statuses) <= {200, 503} and set(tables.kinds) <= {"busy"}
    assert tables.statuses[200] and tables.most_in_flight > BUSY
    assert stopped.probe() == 200
    docker("update", "--cpus", 0.1, stopped.name)
    small = overloaded(stopped, forecast([ROW]), "one observation each")
    # These wait in their connections, and each gets a response.
    assert not small.lost and not small.refused
    assert set(small.statuses) == {200} and small.most_in_flight > BUSY
    docker("update", "--cpus", 1, stopped.name)
    assert stopped.stop() == 0


def test_a_stop_and_a_start_lose_no_accepted_request(stopped: Container) -> None:
    stopped.start()

    async def run() -> tuple[Tally, int]:
        over = asyncio.Event()
        asking = asyncio.create_task(one_after_another(stopped.port, forecast([ROW]), BUSY, lambda: not over.is_set()))
        tables = asyncio.create_task(
            one_after_another(stopped.port, forecast(many(1_000)), 2, lambda: not over.is_set())
        )
        await asyncio.sleep(SECONDS / 4)
        code = await asyncio.to_thread(stopped.stop)
        await asyncio.to_thread(stopped.start)
        await asyncio.sleep(SECONDS / 4)
        over.set()
        small, large = await asking, await tables
        print(f"\nstopped and started: one observation each: {small}; 1,000 each: {large}")
        small.statuses += large.statuses
        small.lost += large.lost
        return small, code

    tally, code = asyncio.run(run())
    assert code == 0
    assert not tally.lost
    assert set(tally.statuses) == {200}
    assert tally.refused


def test_it_is_ready_only_while_it_can_forecast_and_was_not_told_to_stop(stopped: Container) -> None:
    seen: Counter[int | None] = Counter()
    for turn in range(STARTS):
        prober = Prober(stopped, body_of([ROW]))
        prober.start()
        try:
            docker("start", stopped.name)
            assert prober.ready.wait(60), stopped.state()
            # At a different moment each time.
            time.sleep(turn % 7 / 70)
            docker("kill", "--signal", "TERM", stopped.name)
            prober.terminated.set()
            assert docker("wait", stopped.name) == "0"
        finally:
            prober.over.set()
            prober.join()
        assert not prober.wrong
        seen += prober.statuses
    print(f"\n{STARTS} starts and stops, /readyz every 10 ms: {dict(seen)}")
    assert set(seen) == {None, 200, 503}
