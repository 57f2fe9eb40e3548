"""The image with the pod's limits under attack: memory, small requests meanwhile, and what attackers are told."""

from __future__ import annotations

import json
import socket
from collections.abc import Iterator
from typing import Any

import pytest

from benchmarks import attacks
from tests.container.engine import asked, docker, running
from tests.integration.serving import ROW, body_of, eventually

IMAGE = "raincast:local"
POD = ("--memory=512m", "--memory-swap=512m", "--cpus=2", "--ulimit=nofile=1024:1024", "--network=host")
LARGEST_RESIDENT = 300_000_000
# Fewer clients than in the benchmark, but more idle connections than the container has open files.
ATTACKS = attacks.attacks(scale=0.1, idle_connections=1_100)

pytestmark = pytest.mark.usefixtures("image_folder")


def state(name: str) -> dict[str, Any]:
    """Return the engine's description of a container's state."""
    return dict(json.loads(docker("inspect", "--format", "{{json .State}}", name).stdout))


@pytest.fixture(name="pod", scope="module")
def fixture_pod(image_folder: Any) -> Iterator[tuple[str, str]]:  # pylint: disable=unused-argument
    """Start a container with the pod's limits; return its name and URL."""
    attacks.allow_connections()
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    with running(IMAGE, *POD, "--env=RAINCAST_HOST=127.0.0.1", f"--env=RAINCAST_PORT={port}") as name:
        yield name, f"http://127.0.0.1:{port}"


@pytest.mark.parametrize("kind", ATTACKS)
def test_small_requests_pass_and_none_is_lost_under_attack(kind: str, pod: tuple[str, str]) -> None:
    name, url = pod
    # After a failure of another attack.
    docker("start", name)
    eventually(lambda: asked(f"{url}/forecast", body_of([ROW])))
    before = state(name)
    result = attacks.run(kind, ATTACKS[kind], url, before["Pid"], seconds=2.0)
    after = state(name)
    # The engine keeps the mark of an earlier attack.
    kept = ("Running", "OOMKilled", "Pid")
    assert [after[key] for key in kept] == [before[key] for key in kept], f"{result.line()}: {after}"
    assert not result.tally.lost, result.line()
    assert all(status < 500 or status == 503 for status in result.tally.statuses), result.line()
    # Lost is a small request as well if it was not answered within the time of the Deployment's probes.
    assert not result.small.tally.lost, result.line()
    assert set(result.small.tally.statuses) == {200}, result.line()
    assert result.resident <= LARGEST_RESIDENT, result.line()
