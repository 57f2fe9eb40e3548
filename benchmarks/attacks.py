"""Hostile clients against a running service, and small requests beside them.

Starts no service: give its address and the id of its process, whose peak of resident memory is read.

    python -m benchmarks.attacks --url http://127.0.0.1:8080 --pid N

Each attack sends its requests for as long as it takes, or for --seconds if it repeats them. Meanwhile another process
sends small requests at a steady rate: a forecast of one row on a kept connection, and GET /healthz on a new one, as
probes do. A latency is counted from the time at which the request was due.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import multiprocessing
import random
import resource
import socket
import time
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from multiprocessing.connection import Connection as Pipe
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit
from urllib.request import urlopen

PATIENCE = 90.0
# Probes of the Deployment give up after this time.
PROBE_SECONDS = 5.0
ROW = {"Location": "Sydney", "Humidity3pm": 71, "Pressure3pm": 1013.8, "Rainfall": 2.6}
# With one of these statuses the service may turn down a request, and with it those behind it on the connection.
TOLD = frozenset((400, 408, 413, 429, 431, 503))
LARGE_BYTES = 9_900_000
SMALL_BYTES = 16_300


@dataclass
class Tally:
    """Responses by status, and requests that got none, by reason."""

    statuses: Counter[int] = field(default_factory=Counter)
    lost: Counter[str] = field(default_factory=Counter)

    def __str__(self) -> str:
        answered = ", ".join(f"{count:,} x {status}" for status, count in sorted(self.statuses.items()))
        lost = ", ".join(f"{count:,} x {reason}" for reason, count in self.lost.items())
        return (answered or "none") + (f"; lost: {lost}" if lost else "")


@dataclass
class SmallRequests:
    """Outcome of the small requests beside an attack; latencies in seconds."""

    tally: Tally = field(default_factory=Tally)
    latencies: list[float] = field(default_factory=list)

    def percentile(self, part: float) -> float:
        """Return a percentile of the latencies; infinite if there are none."""
        ordered = sorted(self.latencies)
        return ordered[min(len(ordered) - 1, int(part * len(ordered)))] if ordered else float("inf")


@dataclass(frozen=True)
class Result:
    """Outcome of an attack; the peak of resident memory in bytes."""

    name: str
    tally: Tally
    small: SmallRequests
    resident: int

    def line(self) -> str:
        """Return the line of a Markdown table."""
        times = " | ".join(f"{1e3 * self.small.percentile(part):,.0f}" for part in (0.5, 0.99, 1.0))
        return f"| {self.name} | {self.tally} | {self.resident / 1e6:,.0f} | {times} | {self.small.tally} |"


HEADER = """\
| attack | responses | resident MB | p50 ms | p99 ms | max ms | small requests |
|---|---|---:|---:|---:|---:|---|"""


@dataclass
class Target:
    """Address of the service, the tally of an attack, and the end of attacks that repeat."""

    host: str
    port: int
    tally: Tally
    end: float

    def going(self) -> bool:
        """Return True until the time of the attack is over."""
        return time.monotonic() < self.end


Attack = Callable[[Target], Awaitable[None]]


class Connection:
    """A connection as plain bytes, whose writing and reading are independent of each other."""

    def __init__(self, target: Target, plain: socket.socket) -> None:
        self.target, self.socket = target, plain
        self.loop = asyncio.get_running_loop()
        self.received = bytearray()
        self.sent = self.answered = 0
        # The service has told a status of TOLD, and that it closes the connection.
        self.told = False

    async def send(self, data: bytes, requests: int = 1) -> None:
        """Send bytes that hold some requests. Raises OSError."""
        self.sent += requests
        await self.loop.sock_sendall(self.socket, memoryview(data))

    async def response(self) -> tuple[int, bytes]:
        """Read one response; return its status and body. Raises EOFError or OSError."""
        while (end := self.received.find(b"\r\n\r\n")) < 0:
            await self._receive()
        head = bytes(self.received[:end]).lower()
        length = int(head.partition(b"content-length: ")[2].split(b"\r\n", 1)[0])
        while len(self.received) < end + 4 + length:
            await self._receive()
        body = bytes(self.received[end + 4 : end + 4 + length])
        del self.received[: end + 4 + length]
        status = int(head.split(b" ", 2)[1])
        self.answered += 1
        self.told = self.told or (status in TOLD and b"connection: close" in head)
        return status, body

    async def _receive(self) -> None:
        data = await self.loop.sock_recv(self.socket, 1 << 18)
        if not data:
            raise EOFError("closed")
        self.received += data

    async def count_responses(self, over: Callable[[], bool]) -> None:
        """Count responses until all requests are answered and no more will be sent, or the connection ends."""
        try:
            while not (over() and self.answered >= self.sent):
                status, _ = await self.response()
                self.target.tally.statuses[status] += 1
        except (OSError, EOFError) as error:
            self.lose(type(error).__name__)

    def lose(self, reason: str) -> None:
        """Count the requests without a response, unless the service has told that it closes the connection."""
        missing = self.sent - self.answered
        if missing > 0 and not self.told:
            self.target.tally.lost[reason] += missing


async def connect(target: Target) -> Connection:
    """Return a connection that the caller closes. Raises OSError."""
    plain = socket.socket()
    plain.setblocking(False)
    try:
        await asyncio.get_running_loop().sock_connect(plain, (target.host, target.port))
    except BaseException:
        plain.close()
        raise
    return Connection(target, plain)


@asynccontextmanager
async def connected(target: Target) -> AsyncIterator[Connection]:
    """Connect, and close the connection at the end. Raises OSError."""
    connection = await connect(target)
    with connection.socket:
        yield connection


Messages = Iterable[tuple[bytes, int]]


async def exchange(target: Target, messages: Messages) -> None:
    """Send parts, each with its number of requests, on one connection and count the responses meanwhile."""
    over = False

    async def write() -> None:
        nonlocal over
        # A service that turns a request down may close before it has read all of it: reading shows what it told.
        with suppress(OSError):
            for data, requests in messages:
                await connection.send(data, requests)
        over = True

    try:
        async with connected(target) as connection:
            reading = asyncio.create_task(connection.count_responses(lambda: over))
            writing = asyncio.create_task(write())
            await asyncio.wait((reading,), timeout=max(0.0, target.end - time.monotonic()) + PATIENCE)
            if not reading.done():
                connection.lose("no response")
            for task in (reading, writing):
                task.cancel()
            await asyncio.gather(reading, writing, return_exceptions=True)
    except OSError as error:
        target.tally.lost[f"{type(error).__name__} when connecting"] += 1


def at_once(count: int, message: bytes) -> Attack:
    """Return an attack: many connections that send the same request at once, again when all have been answered."""

    async def attack(target: Target) -> None:
        while target.going():
            await asyncio.gather(*(exchange(target, [(message, 1)]) for _ in range(count)))

    return attack


def repeated(clients: int, message: bytes) -> Attack:
    """Return an attack: clients that send a request on a new connection after each response."""

    async def client(target: Target) -> None:
        while target.going():
            await exchange(target, [(message, 1)])

    async def attack(target: Target) -> None:
        await asyncio.gather(*(client(target) for _ in range(clients)))

    return attack


def pipelined(clients: int, message: bytes, count: int) -> Attack:
    """Return an attack: clients that send requests without waiting for responses, until the time is over."""

    def messages(target: Target) -> Messages:
        part, rest = 100, count
        while rest > 0 and target.going():
            yield message * min(part, rest), min(part, rest)
            rest -= part

    async def attack(target: Target) -> None:
        await asyncio.gather(*(exchange(target, messages(target)) for _ in range(clients)))

    return attack


def unread(clients: int, message: bytes) -> Attack:
    """Return an attack: clients that send requests for all of the time and never read a response."""

    async def client(target: Target) -> None:
        while target.going():
            with suppress(OSError, TimeoutError):
                async with connected(target) as connection, asyncio.timeout(max(0.0, target.end - time.monotonic())):
                    while True:
                        await connection.send(message)
            await asyncio.sleep(0.01)

    async def attack(target: Target) -> None:
        await asyncio.gather(*(client(target) for _ in range(clients)))

    return attack


def dripped(clients: int) -> Attack:
    """Return an attack: clients that drip a body whose response they have already got."""
    head = request("/healthz", b"", length=LARGE_BYTES)

    async def client(target: Target) -> None:
        while target.going():
            with suppress(OSError):
                async with connected(target) as connection:
                    await connection.send(head)
                    while target.going():
                        await asyncio.sleep(0.2)
                        await connection.send(b" ", 0)

    async def attack(target: Target) -> None:
        await asyncio.gather(*(client(target) for _ in range(clients)))

    return attack


def idle(clients: int) -> Attack:
    """Return an attack: clients that connect and send nothing, and connect again when they are closed."""

    async def client(target: Target) -> None:
        while target.going():
            with suppress(OSError, TimeoutError, EOFError):
                async with connected(target) as connection, asyncio.timeout(max(0.0, target.end - time.monotonic())):
                    await connection.response()
            await asyncio.sleep(random.uniform(0.1, 0.5))

    async def attack(target: Target) -> None:
        await asyncio.gather(*(client(target) for _ in range(clients)))

    return attack


def request(
    path: str, body: bytes, content_type: bytes = b"application/json", length: int | None = None, method: str = "POST"
) -> bytes:
    """Return the bytes of a request, whose Content-Length may be another than that of its body."""
    size = len(body) if length is None else length
    line = f"{method} {path} HTTP/1.1\r\nhost: attack\r\n"
    entity = b"content-type: %b\r\ncontent-length: %d\r\n" % (content_type, size) if method == "POST" else b""
    return line.encode() + entity + b"\r\n" + body


def observations(rows: int, size: int = 0) -> bytes:
    """Return JSON of some observations, padded with spaces to a size."""
    text = json.dumps({"observations": [ROW | {"Rainfall": i % 40 / 2} for i in range(rows)]}).encode()
    return text[:-1] + b" " * max(0, size - len(text)) + b"}"


def table(rows: int, size: int = 0) -> bytes:
    """Return CSV of some observations, with a column of the width that makes its size."""
    filler = b"x" * max(0, size // rows - 30)
    return b"Location,Rainfall,Humidity3pm,Note\n" + (b"Sydney,1.5,70," + filler + b"\n") * rows


def nested(size: int, depth: int = 450) -> bytes:
    """Return JSON of nested lists in a size."""
    part = b"[" * depth + b"]" * depth
    return b'{"observations":[' + b",".join([part] * (size // (len(part) + 1))) + b"]}"


def nested_objects(size: int, depth: int = 400) -> bytes:
    """Return JSON of nested objects in a size."""
    part = b'{"a":' * depth + b"1" + b"}" * depth
    return b'{"observations":[' + b",".join([part] * (size // (len(part) + 1))) + b"]}"


def json_lines(size: int) -> bytes:
    """Return JSON Lines with nested values in a size."""
    line = b'{"Location":"Sydney","Rainfall":1.5,"Note":' + b"[" * 400 + b"]" * 400 + b"}\n"
    return line * (size // len(line))


def wide_csv(columns: int, rows: int) -> bytes:
    """Return CSV with a wide header and short rows."""
    return b"Location,Rainfall" + b"," * columns + b"\n" + b"P\n" * rows


def split(rows: int = 490_000) -> bytes:
    """Return a body of the MLflow protocol with many short rows."""
    return b'{"dataframe_split":{"columns":["Rainfall"],"data":[' + b",".join([b"[1.25]"] * rows) + b"]}}"


def many_fields(fields: int = 7_400) -> bytes:
    """Return a GET with many header fields."""
    return b"GET /healthz HTTP/1.1\r\nhost: attack\r\n" + b"x:\r\n" * fields + b"\r\n"


SMALL = request("/forecast", observations(1))
HEALTHZ = request("/healthz", b"", method="GET")
CSV = b"text/csv"


def attacks(scale: float = 1.0, idle_connections: int = 1_000) -> dict[str, Callable[[], Attack]]:
    """Return the attacks by name, each a function that makes its messages.

    The numbers of clients are multiplied by `scale`; `idle_connections` is that of idle clients.
    """

    def some(count: int) -> int:
        return max(1, round(count * scale))

    return {
        "50 bodies of 9.9 MB, JSON": lambda: at_once(50, request("/forecast", observations(9_000, LARGE_BYTES))),
        "50 bodies of 9.9 MB, incomplete": lambda: at_once(
            50, request("/forecast", observations(9_000, LARGE_BYTES))[:-1]
        ),
        "1,000 bodies of 9.9 MB, JSON": lambda: at_once(
            some(1_000), request("/forecast", observations(9_000, LARGE_BYTES))
        ),
        "1,000 bodies of 9.9 MB, CSV": lambda: at_once(
            some(1_000), request("/forecast", table(9_000, LARGE_BYTES), CSV)
        ),
        "1,000 bodies of 9.9 MB, nested": lambda: at_once(some(1_000), request("/forecast", nested(LARGE_BYTES))),
        "1,000 bodies of 9.9 MB, incomplete": lambda: at_once(
            some(1_000), request("/forecast", observations(9_000, LARGE_BYTES))[:-1]
        ),
        "2,000 heads of 7,400 fields": lambda: at_once(some(2_000), many_fields()),
        "16 clients, CSV of 22,000 columns": lambda: repeated(16, request("/forecast", wide_csv(22_000, 3_000), CSV)),
        "3 clients, 10 MB of nested lists": lambda: repeated(3, request("/forecast", nested(LARGE_BYTES))),
        "4 clients, JSON Lines with nested values": lambda: repeated(4, request("/forecast", json_lines(LARGE_BYTES))),
        "4 clients, dataframe_split of 490,000 rows": lambda: repeated(4, request("/invocations", split())),
        "1 client, pipelined forecasts": lambda: pipelined(1, SMALL, some(100_000)),
        "50 clients, pipelined forecasts": lambda: pipelined(50, SMALL, some(100_000)),
        "1 client, 4 MB of pipelined GET": lambda: pipelined(1, HEALTHZ, 4_000_000 // len(HEALTHZ)),
        "50 clients, 400 kB of pipelined GET": lambda: pipelined(50, HEALTHZ, 400_000 // len(HEALTHZ)),
        "50 clients, pipelined GET, never read": lambda: unread(50, HEALTHZ * 1_000),
        "3 clients, nested JSON of 16 KB": lambda: repeated(3, request("/forecast", nested_objects(SMALL_BYTES))),
        "10 clients, wide CSV of 16 KB": lambda: repeated(10, request("/forecast", wide_csv(8_000, 4_000), CSV)),
        "50 clients, large responses, never read": lambda: unread(50, request("/forecast", observations(3_000))),
        "100 clients that drip bodies behind a response": lambda: dripped(100),
        "idle connections": lambda: idle(idle_connections),
    }


def _probe(host: str, port: int, rate: float, pipe: Pipe) -> None:
    """Send small requests until the pipe has a message, then send the outcome back."""
    small = SmallRequests()
    asyncio.run(_send_small_requests(Target(host, port, small.tally, float("inf")), small, rate, pipe))
    pipe.send(small)


async def _send_small_requests(target: Target, small: SmallRequests, rate: float, pipe: Pipe) -> None:
    start, number = time.monotonic(), 0
    pending: set[asyncio.Task[None]] = set()
    kept_connections: list[Connection] = []

    async def forecast(due: float) -> None:
        connection = kept_connections.pop() if kept_connections else await connect(target)
        try:
            await timed(connection, SMALL, due)
        except BaseException:
            connection.socket.close()
            raise
        if connection.told:
            connection.socket.close()
        else:
            kept_connections.append(connection)

    async def healthz(due: float) -> None:
        async with connected(target) as connection:
            await timed(connection, HEALTHZ, due)

    async def timed(connection: Connection, message: bytes, due: float) -> None:
        await connection.send(message)
        status, _ = await connection.response()
        small.tally.statuses[status] += 1
        small.latencies.append(time.monotonic() - due)

    async def bounded(ask: Callable[[float], Awaitable[None]], due: float) -> None:
        try:
            async with asyncio.timeout(PROBE_SECONDS):
                await ask(due)
        except (OSError, EOFError) as error:
            small.tally.lost[f"{ask.__name__} {type(error).__name__}"] += 1
            small.latencies.append(PROBE_SECONDS)

    while not pipe.poll():
        due = start + number / rate
        await asyncio.sleep(max(0.0, due - time.monotonic()))
        task = asyncio.create_task(bounded(forecast if number % 2 else healthz, due))
        pending.add(task)
        task.add_done_callback(pending.discard)
        number += 1
    await asyncio.gather(*pending)
    for connection in kept_connections:
        connection.socket.close()


def resident_peak(pid: int) -> int:
    """Return the peak of a process's resident memory in bytes, since `forget_peak`; 0 if the process has ended."""
    try:
        status = Path(f"/proc/{pid}/status").read_text(encoding="ascii")
    except (FileNotFoundError, ProcessLookupError):
        return 0
    _, found, peak = status.partition("VmHWM:")
    return int(peak.split()[0]) * 1024 if found else 0


def forget_peak(pid: int) -> None:
    """Start to measure the peak anew, if permitted."""
    with suppress(PermissionError):
        Path(f"/proc/{pid}/clear_refs").write_text("5", encoding="ascii")


def wait_until_quiet(url: str) -> None:
    """Wait until the service has ended the work of an earlier attack, at most PATIENCE. Raises TimeoutError."""
    end, quiet = time.monotonic() + PATIENCE, 0
    while quiet < 5:
        if time.monotonic() > end:
            raise TimeoutError(f"{url} does not respond")
        start = time.monotonic()
        with suppress(OSError), urlopen(f"{url}/healthz", timeout=PROBE_SECONDS):
            quiet = quiet + 1 if time.monotonic() - start < 0.1 else 0
        time.sleep(0.1)


def allow_connections() -> None:
    """Raise the limit of open files of this process as far as the system allows."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


def run(
    name: str,
    make: Callable[[], Attack],
    url: str,
    pid: int,
    *,
    seconds: float = 10.0,
    rate: float = 50.0,
) -> Result:
    """Run one attack on the service of a process, with small requests from another process beside it."""
    parts = urlsplit(url)
    host, port = parts.hostname or "127.0.0.1", parts.port or 80
    attack = make()
    wait_until_quiet(url)
    context = multiprocessing.get_context("spawn")
    here, there = context.Pipe()
    prober = context.Process(target=_probe, args=(host, port, rate, there), daemon=True)
    forget_peak(pid)
    prober.start()
    target = Target(host, port, Tally(), time.monotonic() + seconds)

    async def attack_now() -> None:
        await attack(target)

    try:
        asyncio.run(attack_now())
    finally:
        here.send("stop")
        small = here.recv()
        prober.join()
        here.close()
        there.close()
    return Result(name, target.tally, small, resident_peak(pid))


def main(arguments: list[str] | None = None) -> None:
    """Run the attacks whose names contain --only and print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--url", default="http://127.0.0.1:8080", help="address of the service (default: %(default)s)")
    parser.add_argument("--pid", type=int, required=True, help="process of the service")
    parser.add_argument("--only", default="", help="part of the names of the attacks to run (default: all)")
    parser.add_argument("--scale", type=float, default=1.0, help="part of the clients (default: %(default)s)")
    parser.add_argument("--idle", type=int, default=1_000, help="idle connections (default: %(default)s)")
    parser.add_argument("--seconds", type=float, default=10.0, help="of an attack that repeats (default: %(default)s)")
    parser.add_argument("--rate", type=float, default=50.0, help="small requests a second (default: %(default)s)")
    options: Any = parser.parse_args(arguments)
    allow_connections()
    print(HEADER, flush=True)
    for name, make in attacks(options.scale, options.idle).items():
        if options.only in name:
            result = run(name, make, options.url, options.pid, seconds=options.seconds, rate=options.rate)
            print(result.line(), flush=True)


if __name__ == "__main__":
    main()
