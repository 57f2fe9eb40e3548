"""A container of the service, and clients that send requests at a rate, whatever the responses."""

from __future__ import annotations

import asyncio
import json
import subprocess
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from tests.integration.serving import Client, request

# More connections than the service lets wait, and fewer than it permits to be open.
CONNECTIONS = 2_000


@dataclass
class Tally:
    """Outcomes of requests: statuses, kinds of problems, and the errors of those without a response."""

    statuses: Counter[int] = field(default_factory=Counter)
    kinds: Counter[str] = field(default_factory=Counter)
    lost: list[str] = field(default_factory=list)
    # Attempts to connect that were refused: nothing was sent.
    refused: int = 0
    in_flight: int = 0
    most_in_flight: int = 0

    def count(self, status: int, body: bytes) -> None:
        """Count a response."""
        self.statuses[status] += 1
        if status != 200:
            self.kinds[json.loads(body)["kind"]] += 1

    def __str__(self) -> str:
        return (
            f"responses {dict(self.statuses)}, problems {dict(self.kinds)}, lost {len(self.lost)}, refused connections"
            f" {self.refused}, at most {self.most_in_flight} at once"
        )


class Connection:
    """A connection to the service, kept open as long as the service keeps it open."""

    def __init__(self, port: int) -> None:
        self.port = port
        self.streams: tuple[asyncio.StreamReader, asyncio.StreamWriter] | None = None

    async def post(self, message: bytes, tally: Tally) -> None:
        """Send a request and count its outcome."""
        if self.streams is None:
            try:
                self.streams = await asyncio.open_connection("127.0.0.1", self.port)
            except ConnectionRefusedError:
                tally.refused += 1
                await asyncio.sleep(0.01)
                return
        reader, writer = self.streams
        tally.in_flight += 1
        tally.most_in_flight = max(tally.most_in_flight, tally.in_flight)
        try:
            writer.write(message)
            head = (await reader.readuntil(b"\r\n\r\n")).lower()
            length = int(head.partition(b"content-length: ")[2].split(b"\r\n", 1)[0])
            tally.count(int(head.split(b" ", 2)[1]), await reader.readexactly(length))
            if b"connection: close" in head:
                self.close()
        except (OSError, EOFError) as error:
            tally.lost.append(repr(error))
            self.close()
        finally:
            tally.in_flight -= 1

    def close(self) -> None:
        """Close it; the next request opens another."""
        if self.streams:
            self.streams[1].close()
            self.streams = None


async def one_after_another(port: int, message: bytes, connections: int, going: Callable[[], bool]) -> Tally:
    """Send on each connection the next request after the response to the last, as long as `going` says."""
    tally = Tally()

    async def ask() -> None:
        connection = Connection(port)
        while going():
            await connection.post(message, tally)
        connection.close()

    await asyncio.gather(*(ask() for _ in range(connections)))
    return tally


async def at_a_rate(port: int, message: bytes, rate: float, count: int) -> Tally:
    """Send `count` requests, `rate` a second, without waiting for the responses to earlier ones."""
    tally, idle = Tally(), [Connection(port) for _ in range(CONNECTIONS)]
    available = asyncio.Semaphore(CONNECTIONS)
    start = time.monotonic()

    async def ask() -> None:
        connection = idle.pop()
        await connection.post(message, tally)
        idle.append(connection)
        available.release()

    async with asyncio.TaskGroup() as group:
        for i in range(count):
            await asyncio.sleep(max(0.0, start + i / rate - time.monotonic()))
            await available.acquire()
            group.create_task(ask())
    for connection in idle:
        connection.close()
    return tally


def docker(*arguments: Any) -> str:
    """Run a docker command and return what it prints."""
    done = subprocess.run(["docker", *map(str, arguments)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"docker {arguments[0]}: {done.stderr}"
    return done.stdout.strip()


@dataclass(frozen=True)
class Container:
    """A container of the service, running or not, on a port of the loopback interface."""

    name: str
    port: int

    def probe(self, path: str = "/readyz", body: bytes = b"") -> int | None:
        """Return the status of a GET, or of a POST if there is a body, or None without a response."""
        try:
            client = Client(self.port)
        except ConnectionRefusedError:
            return None
        try:
            return client.ask("POST" if body else "GET", path, body, connection="close").status
        except ConnectionError:
            return None
        finally:
            client.close()

    def start(self) -> None:
        """Start the container and wait until it is ready."""
        docker("start", self.name)
        end = time.monotonic() + 60
        while self.probe() != 200:
            assert time.monotonic() < end, docker("logs", self.name)
            time.sleep(0.01)

    def state(self) -> str:
        """Return the container's state and the last lines of its log."""
        state = docker("inspect", "--format", "{{json .State}}", self.name)
        logs = subprocess.run(["docker", "logs", "--tail", "5", self.name], capture_output=True, text=True, check=False)
        return f"{state}\n{logs.stderr}"

    def stop(self) -> int:
        """Stop the container as Kubernetes does and return its exit code."""
        docker("stop", "--time", 60, self.name)
        return int(docker("inspect", "--format", "{{.State.ExitCode}}", self.name))


class Prober(threading.Thread):
    """Probes /readyz every 10 ms, and asks for a forecast at the first 200. `wrong` lists violations of readiness."""

    def __init__(self, asked: Container, body: bytes) -> None:
        super().__init__()
        self.asked, self.body = asked, body
        self.ready, self.terminated, self.over = threading.Event(), threading.Event(), threading.Event()
        self.statuses: Counter[int | None] = Counter()
        self.wrong: list[str] = []

    def run(self) -> None:
        while not self.over.is_set():
            terminated, status = self.terminated.is_set(), self.asked.probe()
            self.statuses[status] += 1
            if status == 200 and terminated:
                self.wrong.append("ready after SIGTERM")
            if status == 200 and not self.ready.is_set():
                if self.asked.probe("/forecast", self.body) != 200:
                    self.wrong.append("ready before a forecast works")
                self.ready.set()
            time.sleep(0.01)


@contextmanager
def container(image: str, name: str, port: int, drain_seconds: float) -> Iterator[Container]:
    """Create a container as the Deployment does: no root, no capabilities, a read-only root file system."""
    settings = {"HOST": "127.0.0.1", "PORT": port, "DRAIN_SECONDS": drain_seconds}
    flags = [flag for key, value in settings.items() for flag in ("--env", f"RAINCAST_{key}={value}")]
    restricted = ("--read-only", "--cap-drop", "ALL", "--security-opt", "no-new-privileges", "--user", "65532:65532")
    docker("create", "--name", name, "--network", "host", *restricted, *flags, image, "serve")
    try:
        yield Container(name, port)
    finally:
        docker("rm", "--force", name)


def forecast(rows: list[dict[str, Any]]) -> bytes:
    """Return the bytes of a POST /forecast."""
    return request("POST", "/forecast", json.dumps({"observations": rows}).encode())
