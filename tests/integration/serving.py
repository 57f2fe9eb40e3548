"""The service as a process, and a client that checks every byte of its responses."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, TypeVar, cast

from prometheus_client.parser import text_string_to_metric_families

from tests.conftest import ROOT

T = TypeVar("T")
JSON, CSV = "application/json", "text/csv"
PATIENCE = 60.0
ROW = {"Location": "Sydney", "Humidity3pm": 71, "Pressure3pm": 1013.8, "Rainfall": 2.6}
# `prediction.py` with changed constants of the service, so that a test need not wait 10 s.
WITH_SETUP = """
import resource, runpy, sys
sys.path.insert(0, {root!r})
from raincast.serving import http_protocol
{setup}
sys.argv[0] = "prediction.py"
runpy.run_path({script!r}, run_name="__main__")
"""


# For `setup`: one second for headers and two for a request.
HASTY = "http_protocol.HEADER_SECONDS, http_protocol.REQUEST_SECONDS = 1.0, 2.0"


@dataclass(frozen=True)
class Reply:
    """A response; its headers by their names in lower case, the values of a repeated one joined."""

    status: int
    headers: dict[str, str]
    body: bytes

    def json(self) -> Any:
        """Return the decoded body."""
        return json.loads(self.body)

    def probabilities(self) -> list[float]:
        """Return the probabilities in a response to POST /forecast."""
        assert self.status == 200, self.body[:1000]
        return [line["probability_of_rain"] for line in self.json()["forecasts"]]


class Client:
    """One connection."""

    def __init__(self, port: int) -> None:
        self.socket = socket.create_connection(("127.0.0.1", port), PATIENCE)
        self.file = cast(BinaryIO, self.socket.makefile("rb"))

    def close(self) -> None:
        """Close the connection."""
        self.file.close()
        self.socket.close()

    def send(self, data: bytes) -> None:
        """Send bytes."""
        self.socket.sendall(data)

    def reply(self, method: str = "GET") -> Reply:
        """Read the next response. Raises ConnectionError if the connection ends before it is complete."""
        status = self._line().split(b" ", 2)
        if len(status) < 2 or not status[0].startswith(b"HTTP/1."):
            raise ConnectionError(f"no status line: {status}")
        headers: dict[str, str] = {}
        while line := self._line():
            name, separator, value = line.decode("latin-1").partition(":")
            assert separator and name == name.strip(), f"no header: {line!r}"
            key = name.lower()
            headers[key] = f"{headers[key]}, {value.strip()}" if key in headers else value.strip()
        if status[1] == b"100":
            return Reply(100, headers, b"")
        assert "content-length" in headers, headers
        length = 0 if method == "HEAD" else int(headers["content-length"])
        body = self.file.read(length)
        if len(body) < length:
            raise ConnectionError(f"{len(body)} of {length} bytes")
        return Reply(int(status[1]), headers, body)

    def _line(self) -> bytes:
        line = self.file.readline()
        if not line.endswith(b"\r\n"):
            raise ConnectionError(f"the connection ended in {line!r}")
        return line[:-2]

    def ask(self, method: str, path: str, body: bytes = b"", /, **headers: str) -> Reply:
        """Send a request and read its response."""
        self.send(request(method, path, body, **headers))
        return self.reply(method)

    def is_closed(self) -> bool:
        """Wait for the end of the connection; return True if no other byte comes before it."""
        try:
            return self.file.read(1) == b""
        except ConnectionResetError:
            return True


@dataclass(frozen=True)
class Server:
    """A running service."""

    process: subprocess.Popen[bytes]
    port: int
    folder: Path

    def client(self) -> closing[Client]:
        """Return a connection, closed at the end of a `with`."""
        return closing(Client(self.port))

    def ask(self, method: str, path: str, body: bytes = b"", /, **headers: str) -> Reply:
        """Send a request on a new connection and return its response."""
        with self.client() as client:
            return client.ask(method, path, body, **headers)

    def forecast(self, rows: Any, **headers: str) -> Reply:
        """Send observations as JSON to POST /forecast."""
        return self.ask("POST", "/forecast", body_of(rows), **headers)

    def raw(self, data: bytes) -> Reply:
        """Send bytes, which the service need not read to their end, and return the first response."""
        with self.client() as client:
            try:
                client.send(data)
            except (BrokenPipeError, ConnectionResetError):
                pass
            return client.reply()

    def metrics(self) -> dict[tuple[str, frozenset[tuple[str, str]]], float]:
        """Return the values of /metrics by name and labels."""
        text = self.ask("GET", "/metrics").body.decode()
        return {
            (sample.name, frozenset(sample.labels.items())): sample.value
            for family in text_string_to_metric_families(text)
            for sample in family.samples
        }

    def metric(self, name: str, /, **labels: str) -> float:
        """Return a value of /metrics, 0.0 if it does not exist yet."""
        return self.metrics().get((name, frozenset(labels.items())), 0.0)

    def stderr(self) -> str:
        """Return standard error so far."""
        return (self.folder / "stderr").read_text()

    def log(self) -> list[dict[str, Any]]:
        """Return the lines of the request log so far."""
        text = (self.folder / "stdout").read_text()
        assert text.endswith("\n") or not text
        return [json.loads(line) for line in text.splitlines()]

    def logged(self, request_id: str) -> dict[str, Any]:
        """Wait for the line of a request in the request log and return it."""
        return eventually(lambda: next((line for line in self.log() if line["request_id"] == request_id), None))

    def stop(self, sign: signal.Signals = signal.SIGTERM) -> int:
        """Send a signal, wait for the end and return the exit code."""
        self.process.send_signal(sign)
        return self.process.wait(PATIENCE)


def request(method: str, path: str, body: bytes = b"", /, **headers: str) -> bytes:
    """Return the bytes of a request, of JSON by default. Underscores in the names of `headers` become hyphens."""
    lines = {"host": "test"}
    if body or method == "POST":
        lines |= {"content-type": JSON, "content-length": str(len(body))}
    lines |= {name.replace("_", "-").lower(): value for name, value in headers.items()}
    head = f"{method} {path} HTTP/1.1\r\n" + "".join(f"{name}: {value}\r\n" for name, value in lines.items())
    return head.encode("latin-1") + b"\r\n" + body


def body_of(rows: Any) -> bytes:
    """Return observations as the body of POST /forecast."""
    return json.dumps({"observations": rows}).encode()


FORECAST, HEALTHZ = request("POST", "/forecast", body_of([ROW])), request("GET", "/healthz")


def many(rows: int) -> list[dict[str, Any]]:
    """Return this many different observations without dates."""
    return [ROW | {"Humidity3pm": i % 101, "Rainfall": i % 40 / 2} for i in range(rows)]


def eventually(condition: Callable[[], T | None]) -> T:
    """Call `condition` until its result is true, and return the result."""
    end = time.monotonic() + PATIENCE
    while not (result := condition()):
        assert time.monotonic() < end, "timed out"
        time.sleep(0.01)
    return result


def environment(**env: str) -> dict[str, str]:
    """Return the environment without RAINCAST_* and MLFLOW_* settings, and with `env`."""
    return {name: value for name, value in os.environ.items() if not name.startswith(("RAINCAST_", "MLFLOW_"))} | env


@contextmanager
def spawned(
    folder: Path, *flags: Any, setup: str = "", env: dict[str, str] | None = None, stdout: Any = None
) -> Iterator[subprocess.Popen[bytes]]:
    """Run `prediction.py serve` with `stdout` and `stderr` in `folder`; kill it at the end if it still runs."""
    script = str(ROOT / "prediction.py")
    call = ["-c", WITH_SETUP.format(root=str(ROOT), script=script, setup=setup)] if setup else [script]
    folder.mkdir(parents=True, exist_ok=True)
    with (
        (folder / "stdout").open("wb") as out,
        (folder / "stderr").open("wb") as error,
        subprocess.Popen(
            [sys.executable, *call, "serve", *map(str, flags)],
            stdout=stdout or out,
            stderr=error,
            cwd=folder,
            env=environment(**(env or {})),
        ) as process,
    ):
        try:
            yield process
        finally:
            if process.poll() is None:
                process.kill()


@contextmanager
def started(folder: Path, *flags: Any, **settings: Any) -> Iterator[Server]:
    """Start a service on a free port of the loopback interface, by default without a drain; wait until it is ready."""
    with spawned(folder, "--port", 0, "--drain-seconds", 0, *flags, **settings) as process:

        def port() -> int | None:
            text = (folder / "stderr").read_text()
            assert process.poll() is None, text
            return int(text.split("\n", 1)[0].rsplit(":", 1)[1]) if "\n" in text else None

        server = Server(process, eventually(port), folder)
        eventually(lambda: server.ask("GET", "/readyz").status == 200)
        yield server


def refused(folder: Path, *flags: Any, env: dict[str, str] | None = None) -> tuple[int, list[str]]:
    """Return exit code and lines on stderr of a service that does not start."""
    with spawned(folder, *flags, env=env) as process:
        code = process.wait(PATIENCE)
    assert (folder / "stdout").read_bytes() == b""
    return code, (folder / "stderr").read_text().splitlines()
