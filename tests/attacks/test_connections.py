"""Attacks by connections: framing, floods of requests, clients that stall, and what all of them may hold together."""

from __future__ import annotations

import signal
import socket
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from raincast.serving.framing import FIELDS
from raincast.serving.server import UNACKNOWLEDGED_BYTES
from tests.integration.serving import (
    CSV,
    FORECAST,
    HASTY,
    HEALTHZ,
    PATIENCE,
    ROW,
    Client,
    Reply,
    Server,
    body_of,
    eventually,
    many,
    request,
    started,
)

CSV_ROWS = b"Location,Rainfall\n" + b"Sydney,1.5\n" * 5_000
RESIDENT_MB = 300


@pytest.fixture(name="server", scope="module")
def fixture_server(trained: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """Start a service with the usual limits."""
    with started(tmp_path_factory.mktemp("server"), "--model", trained) as server:
        yield server


def peak_mb(server: Server) -> float:
    """Return the largest resident size of a service so far, in MB."""
    status = Path(f"/proc/{server.process.pid}/status").read_text(encoding="utf-8")
    return int(status.split("VmHWM:", 1)[1].split()[0]) / 1000


def assert_refused(reply: Reply, status: int) -> None:
    """Assert that a response is a problem document with this status, and closes the connection."""
    assert (reply.status, reply.headers["content-type"]) == (status, "application/problem+json"), reply
    assert reply.headers["connection"] == "close"
    assert reply.headers["x-request-id"]


REFUSED_HEADS = {
    "no host": (b"GET /healthz HTTP/1.1\r\n\r\n", 400),
    "two hosts": (b"GET /healthz HTTP/1.1\r\nhost: a\r\nhost: a\r\n\r\n", 400),
    "two hosts in HTTP/1.0": (b"GET /healthz HTTP/1.0\r\nhost: a\r\nhost: b\r\n\r\n", 400),
    "a host that is none": (b"GET /healthz HTTP/1.1\r\nhost: a/b@c d\r\n\r\n", 400),
    "HTTP/2.0": (b"GET /healthz HTTP/2.0\r\nhost: a\r\n\r\n", 505),
    "HTTP/0.9": (b"GET /healthz HTTP/0.9\r\nhost: a\r\n\r\n", 505),
    "no version": (b"GET /healthz\r\n\r\n", 505),
    "transfer-encoding gzip": (
        b"POST /forecast HTTP/1.1\r\nhost: a\r\ntransfer-encoding: gzip, chunked\r\n\r\n0\r\n\r\n",
        501,
    ),
    "transfer-encoding in HTTP/1.0": (
        b"POST /forecast HTTP/1.0\r\nhost: a\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n",
        400,
    ),
    "te chunked": (b"GET /healthz HTTP/1.1\r\nhost: a\r\nte: gzip, chunked\r\n\r\n", 400),
    "two content types": (
        b"POST /forecast HTTP/1.1\r\nhost: a\r\ncontent-type: text/csv\r\ncontent-type: application/json\r\n"
        b"content-length: 2\r\n\r\n{}",
        400,
    ),
    "content-length abc": (b"POST /forecast HTTP/1.1\r\nhost: a\r\ncontent-length: abc\r\n\r\n", 400),
    "content-length +2": (b"POST /forecast HTTP/1.1\r\nhost: a\r\ncontent-length: +2\r\n\r\n{}", 400),
    "content-length 2, 2": (b"POST /forecast HTTP/1.1\r\nhost: a\r\ncontent-length: 2, 2\r\n\r\n{}", 400),
    "endless content-length": (
        b"POST /forecast HTTP/1.1\r\nhost: a\r\ncontent-length: " + b"9" * 30 + b"\r\n\r\n",
        400,
    ),
    "bare line feeds": (b"GET /healthz HTTP/1.1\nhost: a\n\n", 400),
    "a folded header": (b"GET /healthz HTTP/1.1\r\nhost: a\r\nx: 1\r\n 2\r\n\r\n", 400),
    "connect": (b"CONNECT a:443 HTTP/1.1\r\nhost: a\r\ncontent-length: 5\r\n\r\nabcde", 501),
    "too many fields": (b"GET /healthz HTTP/1.1\r\nhost: a\r\n" + b"a: b\r\n" * FIELDS + b"\r\n", 431),
    "7,400 fields": (b"GET /healthz HTTP/1.1\r\nhost: a\r\n" + b"a: b\r\n" * 7_400 + b"\r\n", 431),
    "endless trailers": (
        b"POST /forecast HTTP/1.1\r\nhost: a\r\ntransfer-encoding: chunked\r\n\r\n0\r\n" + b"a: b\r\n" * 200,
        431,
    ),
    "an endless trailer": (
        b"POST /forecast HTTP/1.1\r\nhost: a\r\ntransfer-encoding: chunked\r\n\r\n0\r\na: " + b"b" * 200_000,
        431,
    ),
    "an endless chunk extension": (
        b"POST /forecast HTTP/1.1\r\nhost: a\r\ntransfer-encoding: chunked\r\n\r\n1;" + b"b" * 200_000,
        431,
    ),
}


@pytest.mark.parametrize("case", REFUSED_HEADS)
@pytest.mark.parametrize("before", [b"", HEALTHZ, FORECAST + HEALTHZ])
def test_a_doubtful_head_is_refused_behind_the_responses_due(before: bytes, case: str, server: Server) -> None:
    data, status = REFUSED_HEADS[case]
    with server.client() as client:
        # What is behind a refused head is never parsed as a request.
        client.send(before + data + HEALTHZ)
        for _ in range(before.count(b"HTTP/1.1\r\n")):
            assert client.reply().status == 200
        assert_refused(client.reply(), status)
        assert client.is_closed()


def test_as_many_fields_as_allowed_are_accepted(server: Server) -> None:
    data = b"GET /healthz HTTP/1.1\r\nhost: a\r\n" + b"a: b\r\n" * (FIELDS - 1) + b"\r\n"
    assert server.raw(data).status == 200


SMUGGLED = request("GET", "/version", x_request_id="smuggled")
OFFER = b"connection: upgrade\r\nupgrade: h2c\r\n"


def post_with(headers: bytes, body: bytes) -> bytes:
    """Return a POST of forecasts with these header lines."""
    return b"POST /forecast HTTP/1.1\r\nhost: a\r\ncontent-type: application/json\r\n%bcontent-length: %d\r\n\r\n%b" % (
        headers,
        len(body),
        body,
    )


@pytest.mark.parametrize(
    "data",
    [
        post_with(OFFER, SMUGGLED),
        b"\r\n\r\n" + post_with(OFFER, SMUGGLED),
        HEALTHZ + post_with(OFFER, SMUGGLED),
        post_with(b"upgrade: h2c\r\n", SMUGGLED),
        b"CONNECT a:443 HTTP/1.1\r\nhost: a\r\ncontent-length: %d\r\n\r\n" % len(SMUGGLED) + SMUGGLED,
    ],
)
@pytest.mark.parametrize("size", [1, 7, 100_000])
def test_a_body_is_never_a_request(data: bytes, size: int, server: Server) -> None:
    lines = len(server.log())
    with server.client() as client:
        client.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        for start in range(0, len(data), size):
            client.send(data[start : start + size])
        client.socket.shutdown(socket.SHUT_WR)
        statuses: list[int] = []
        while not statuses or statuses[-1] == 200:
            statuses.append(client.reply().status)
        assert client.is_closed()
    # The body is invalid JSON, or CONNECT is not supported.
    assert statuses[-1] in (400, 501)
    eventually(lambda: len(server.log()) >= lines + len(statuses))
    assert "smuggled" not in [line["request_id"] for line in server.log()]


def test_a_row_that_looks_like_a_header_is_kept(server: Server) -> None:
    body = b"Location,Rainfall\r\nSydney,1\r\nUpgrade: h2c,2\r\nconnection: upgrade,3\r\n\r\n"
    for headers in ({}, {"connection": "upgrade", "upgrade": "h2c"}):
        reply = server.ask("POST", "/forecast", body, content_type=CSV, **headers)
        assert [row["Location"] for row in reply.json()["forecasts"]] == [
            "Sydney",
            "Upgrade: h2c",
            "connection: upgrade",
        ]


@pytest.mark.parametrize("path", ["/docs/", "//example.org/docs", "/forecast/", "/healthz/"])
def test_no_path_is_redirected(path: str, server: Server) -> None:
    reply = server.ask("GET", path, host="example.org")
    assert (reply.status, reply.headers.get("location")) == (404, None)


@pytest.mark.parametrize("method", ["GET", "QUERY", "PURGE", "OPTIONS", "HEAD", "DELETE"])
def test_other_methods_of_forecasts_are_told_the_allowed_one(method: str, server: Server) -> None:
    for path in ("/forecast", "/invocations"):
        reply = server.ask(method, path)
        assert (reply.status, reply.headers["allow"]) == (405, "POST")


def test_a_refused_connection_has_an_identifier_a_line_and_a_count(server: Server) -> None:
    before = server.metric("raincast_errors_total", kind="http")
    for data, method, path in (
        (b"\x00\r\n\r\n", "-", "-"),
        (b"GET /healthz HTTP/1.1\r\n\r\n", "GET", "/healthz"),
        (b"GET /nothing?secret=1 HTTP/2.0\r\nhost: a\r\n\r\n", "GET", "/nothing"),
    ):
        reply = server.raw(data)
        line = server.logged(reply.headers["x-request-id"])
        assert (line["method"], line["path"], line["status"]) == (method, path, reply.status)
    assert server.metric("raincast_errors_total", kind="http") == before + 3
    reply = server.raw(b"GET /healthz HTTP/2.0\r\nhost: a\r\nx-request-id: mine\r\n\r\n")
    assert reply.headers["x-request-id"] == "mine"


def responses_before(client: Client, other: Client) -> int:
    """Return how many of a flood's responses are sent before another client is answered."""
    assert other.ask("GET", "/healthz").status == 200
    client.socket.setblocking(False)
    arrived = b""
    try:
        while part := client.socket.recv(1 << 20):
            arrived += part
    except BlockingIOError:
        pass
    return arrived.count(b"HTTP/1.1 200 OK")


@pytest.mark.parametrize("asked", [FORECAST, HEALTHZ])
def test_a_flood_of_one_connection_does_not_come_before_other_clients(asked: bytes, server: Server) -> None:
    requests = 200_000 // len(asked)
    with server.client() as client, server.client() as other:
        assert other.ask("GET", "/healthz").status == 200
        # As much as the service reads at once.
        client.send(asked * requests)
        assert responses_before(client, other) < requests // 4


def test_4_megabytes_of_requests_take_no_memory(trained: Path, tmp_path: Path) -> None:
    requests = 4_000_000 // len(HEALTHZ)
    with started(tmp_path, "--model", trained) as server, server.client() as client:
        before = peak_mb(server)
        client.socket.settimeout(PATIENCE)
        client.socket.setblocking(False)
        unsent = HEALTHZ * requests
        # The client reads nothing before it can send no more.
        end = time.monotonic() + 2
        while unsent and time.monotonic() < end:
            try:
                unsent = unsent[client.socket.send(unsent[:100_000]) :]
            except BlockingIOError:
                time.sleep(0.01)
        assert server.ask("GET", "/healthz").status == 200
        assert peak_mb(server) < before + 20
        client.socket.setblocking(True)
        assert client.reply().status == 200


LARGE_BODY = body_of([ROW | {"RISK_MM": "x" * 900}] * 9_000)


@pytest.mark.parametrize("cut", [0, 1])
def test_many_large_bodies_are_refused_while_small_requests_are_answered(
    cut: int, trained: Path, tmp_path: Path
) -> None:
    data = request("POST", "/forecast", LARGE_BODY)
    with started(tmp_path, "--model", trained, setup=HASTY if cut else "") as server, ExitStack() as stack:
        clients = [stack.enter_context(server.client()) for _ in range(40)]
        for client in clients:
            client.socket.setblocking(False)
        left = {client: data[: len(data) - cut] for client in clients}
        answered = 0
        while left:
            for client, rest in [*left.items()]:
                try:
                    left[client] = rest[client.socket.send(rest[:1_000_000]) :]
                except BlockingIOError:
                    continue
                if not left[client]:
                    del left[client]
            answered += server.ask("POST", "/forecast", body_of([ROW])).status == 200
        assert answered
        replies = []
        for client in clients:
            client.socket.settimeout(PATIENCE)
            replies.append(client.reply())
        assert {reply.status for reply in replies} == ({408, 503} if cut else {200, 503})
        for reply in replies:
            assert (reply.headers.get("retry-after") == "1") is (reply.status == 503)
        assert server.metric("raincast_held_bytes") < 1_000_000
        assert peak_mb(server) < RESIDENT_MB
        # There is room again.
        assert server.ask("POST", "/forecast", LARGE_BODY).status == 200


def test_chunked_bodies_count_as_they_come(trained: Path, tmp_path: Path) -> None:
    head = request("POST", "/forecast", transfer_encoding="chunked").replace(b"content-length: 0\r\n", b"")
    chunk = b"%x\r\n%b\r\n" % (1_000_000, b" " * 1_000_000)
    with started(tmp_path, "--model", trained, setup=HASTY) as server, ExitStack() as stack:
        clients = [stack.enter_context(server.client()) for _ in range(20)]
        for client in clients:
            client.send(head + chunk * 8)
        assert server.forecast([ROW]).status == 200
        replies = [client.reply() for client in clients]
        assert {reply.status for reply in replies} == {408, 503}
        assert peak_mb(server) < RESIDENT_MB
        assert eventually(lambda: server.metric("raincast_held_bytes") < 1_000_000)
        with server.client() as client:
            client.send(head + chunk * 11)
            assert_refused(client.reply(), 413)


def test_a_body_behind_an_unknown_path_is_not_held_for_long(trained: Path, tmp_path: Path) -> None:
    with started(tmp_path, "--model", trained, setup=HASTY) as server, server.client() as client:
        client.send(b"GET /healthz HTTP/1.1\r\nhost: a\r\ncontent-length: 1000\r\n\r\n")
        client.socket.settimeout(0.1)
        end = time.monotonic() + PATIENCE
        reply = None
        while reply is None and time.monotonic() < end:
            client.send(b"x")
            try:
                reply = client.reply()
            except TimeoutError:
                client.file = client.socket.makefile("rb")
        assert reply is not None
        assert_refused(reply, 408)


def test_clients_that_never_read_are_closed(trained: Path, tmp_path: Path) -> None:
    data = request("POST", "/forecast", CSV_ROWS, content_type=CSV)
    with started(tmp_path, "--model", trained, setup=HASTY) as server, ExitStack() as stack:
        files = server.metric("process_open_fds")
        for asked in (data, FORECAST, HEALTHZ, request("GET", "/openapi.json"), b"\x00"):
            client = stack.enter_context(server.client())
            client.socket.setblocking(False)
            try:
                while True:
                    client.socket.send(asked * 10)
            except (BlockingIOError, ConnectionError):
                pass
        assert server.forecast([ROW]).status == 200
        assert eventually(lambda: server.metric("process_open_fds") <= files)
        assert eventually(lambda: server.metric("raincast_held_bytes") == 0)


def queued(port: int) -> int:
    """Return the bytes that the kernel keeps for clients of a port that have not acknowledged them."""
    lines = [line.split() for line in Path("/proc/net/tcp").read_text(encoding="ascii").splitlines()[1:]]
    return sum(int(line[4].partition(":")[0], 16) for line in lines if int(line[1].partition(":")[2], 16) == port)


def test_a_response_that_is_not_read_is_kept_where_it_is_counted(trained: Path, tmp_path: Path) -> None:
    with started(tmp_path, "--model", trained) as server, server.client() as client:
        client.send(request("POST", "/forecast", body_of(many(10_000))))
        held = eventually(lambda: server.metric("raincast_rows_total") and server.metric("raincast_held_bytes"))
        # The client's own buffer takes a part of the response of some 900 kB.
        assert queued(server.port) <= 2 * UNACKNOWLEDGED_BYTES
        assert held > 100_000
        assert len(client.reply().json()["forecasts"]) == 10_000
        assert eventually(lambda: server.metric("raincast_held_bytes") == 0)


def test_the_longest_idle_connections_make_room(trained: Path, tmp_path: Path) -> None:
    setup = "http_protocol.Connection.limit = 100"
    with started(tmp_path, "--model", trained, setup=setup) as server, ExitStack() as stack:
        working = stack.enter_context(server.client())
        assert working.ask("GET", "/healthz").status == 200
        idle = [stack.enter_context(server.client()) for _ in range(98)]
        for number, client in enumerate(idle):
            # Some have sent half a head, or nothing since a response.
            client.send((b"", HEALTHZ[:-2], HEALTHZ)[number % 3])
        eventually(lambda: server.raw(FORECAST).status == 200)
        for _ in range(100):
            assert eventually(lambda: server.raw(FORECAST).status == 200)
        assert working.ask("GET", "/healthz").status == 200


def test_what_a_client_sends_behind_its_last_request_does_not_cut_the_response(trained: Path, tmp_path: Path) -> None:
    body = b"Location,Rainfall,Humidity3pm\n" + b"Sydney,1.5,70\n" * 9_900
    with started(tmp_path, "--model", trained, "--drain-seconds", 5) as server, ExitStack() as stack:
        clients = [stack.enter_context(server.client()) for _ in range(4)]
        for client in clients:
            assert client.ask("GET", "/healthz").status == 200
        server.process.send_signal(signal.SIGTERM)
        eventually(lambda: server.ask("GET", "/readyz").status == 503)
        for client in clients:
            # The service announces the end of the connection with this response.
            client.send(request("POST", "/forecast", body, content_type=CSV))
            for _ in range(20):
                client.send(HEALTHZ)
                time.sleep(0.005)
            time.sleep(0.2)
            reply = client.reply()
            assert (len(reply.probabilities()), reply.headers["connection"]) == (9_900, "close")
            assert client.is_closed()


def test_a_service_without_files_left_ends_with_the_responses_due(trained: Path, tmp_path: Path) -> None:
    head, body = FORECAST.split(b"\r\n\r\n", 1)
    with started(
        tmp_path, "--model", trained, setup="resource.setrlimit(resource.RLIMIT_NOFILE, (170, 170))"
    ) as server:
        with ExitStack() as stack:
            clients = [stack.enter_context(server.client()) for _ in range(100)]
            for client in clients:
                client.send(head + b"\r\n\r\n")
            eventually(lambda: server.metric("process_open_fds") > 100)
            server.process.send_signal(signal.SIGSTOP)
            # The kernel accepts these, and the service has not so many files.
            waiting = [stack.enter_context(server.client()) for _ in range(150)]
            server.process.send_signal(signal.SIGTERM)
            server.process.send_signal(signal.SIGCONT)
            for client in clients:
                client.send(body)
                assert client.reply().status == 200
            assert waiting
        assert server.process.wait(PATIENCE) == 0
