"""What clients may do to a connection, how many there may be, and how the service ends."""

from __future__ import annotations

import http.client
import json
import resource
import signal
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, closing
from pathlib import Path

import pytest

from tests.integration.serving import (
    CSV,
    JSON,
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

FILES = "resource.setrlimit(resource.RLIMIT_NOFILE, ({soft}, {hard}))"
HASTY = "http_protocol.HEADER_SECONDS, http_protocol.REQUEST_SECONDS = 1.0, 2.0"
FORECAST = request("POST", "/forecast", body_of([ROW]))
HEALTHZ = request("GET", "/healthz")
LARGE = b"Location,Rainfall,Humidity3pm\n" + b"Sydney,1.5,70\n" * 10_000


@pytest.fixture(name="server", scope="module")
def fixture_server(trained: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A service as it is."""
    with started(tmp_path_factory.mktemp("server"), "--model", trained) as server:
        yield server


@pytest.fixture(name="hasty", scope="module")
def fixture_hasty(trained: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A service that waits one second for headers and two for a request."""
    with started(tmp_path_factory.mktemp("hasty"), "--model", trained, setup=HASTY) as server:
        yield server


def assert_problem(reply: Reply, status: int) -> None:
    """A problem document that says what it is about."""
    assert (reply.status, reply.headers["content-type"]) == (status, "application/problem+json"), reply
    document = reply.json()
    assert document["status"] == status
    assert document["detail"]


# Odd requests


@pytest.mark.parametrize(
    "data",
    [
        b"garbage\r\n\r\n",
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(64),
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
        b"GET /healthz HTTP/9.9\r\nhost: x\r\n\r\n",
        b"GET /healthz HTTP/1.1\r\nno colon\r\n\r\n",
        b"GET /healthz HTTP/1.1\r\nhost : x\r\n\r\n",
        "GET /ü HTTP/1.1\r\nhost: x\r\n\r\n".encode(),
        b"POST /forecast HTTP/1.1\r\nhost: x\r\ncontent-length: -1\r\n\r\n",
        b"POST /forecast HTTP/1.1\r\nhost: x\r\ncontent-length: 5\r\ncontent-length: 6\r\n\r\nabcdef",
        b"POST /forecast HTTP/1.1\r\nhost: x\r\ncontent-length: 5\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n",
        b"POST /forecast HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\n\r\nzz\r\n",
    ],
)
def test_what_is_no_http_is_refused(data: bytes, server: Server) -> None:
    with server.client() as client:
        client.send(data)
        assert_problem(client.reply(), 400)
        assert client.is_closed()
    assert server.ask("GET", "/healthz").status == 200


@pytest.mark.parametrize("size", [100_000, 2_000_000])
def test_headers_without_end_are_refused(size: int, server: Server) -> None:
    for headers in (b"x: " + b"a" * size + b"\r\n", b"x: a\r\n" * (size // 6)):
        assert_problem(server.raw(b"GET /healthz HTTP/1.1\r\nhost: x\r\n" + headers + b"\r\n"), 431)
    reply = server.raw(b"GET /healthz?" + b"a" * size + b" HTTP/1.1\r\nhost: x\r\n\r\n")
    assert_problem(reply, reply.status)
    assert reply.status in (400, 414, 431)


def test_pipelined_requests_are_answered_in_order(server: Server) -> None:
    rows = many(300)
    asked = [
        request("GET", "/version"),
        FORECAST,
        request("POST", "/forecast", body_of(rows)),
        request("POST", "/forecast", body_of([ROW | {"Location": "Perth"}])),
        request("GET", "/nowhere"),
        request("POST", "/invocations", json.dumps({"instances": [ROW]}).encode()),
        HEALTHZ,
    ]
    alone = [server.raw(data) for data in asked]
    with server.client() as client:
        client.send(b"".join(asked * 3))
        for expected in alone * 3:
            reply = client.reply()
            assert (reply.status, reply.body) == (expected.status, expected.body)
        client.socket.shutdown(socket.SHUT_WR)
        assert client.is_closed()


def test_requests_that_come_together_are_answered_as_alone(server: Server) -> None:
    rows = [{"Location": place, "Rainfall": 0.4 * i, "Humidity3pm": 3 * i} for i, place in enumerate(["Sydney"] * 30)]
    bodies = [*map(body_of, ([row] for row in rows)), body_of([ROW | {"Humidity3pm": 101}]), body_of(many(5)), b"{"]
    alone = [server.ask("POST", "/forecast", body) for body in bodies]
    with ExitStack() as stack:
        clients = [stack.enter_context(server.client()) for _ in bodies]
        for _ in range(5):
            for client, body in zip(clients, bodies, strict=True):
                client.send(request("POST", "/forecast", body, X_Request_Id=f"id-{clients.index(client)}"))
            for i, (client, expected) in enumerate(zip(clients, alone, strict=True)):
                reply = client.reply()
                assert (reply.status, reply.headers["x-request-id"]) == (expected.status, f"id-{i}")
                if reply.status == 200:
                    assert reply.probabilities() == pytest.approx(expected.probabilities(), rel=0, abs=1e-12)
                else:
                    assert reply.body == expected.body


def test_who_stops_sending_behind_a_request_is_answered(server: Server) -> None:
    with server.client() as client:
        client.send(FORECAST)
        client.socket.shutdown(socket.SHUT_WR)
        assert client.reply().status == 200
        assert client.is_closed()


def test_garbage_behind_a_request_is_refused_behind_its_answer(server: Server) -> None:
    with server.client() as client:
        client.send(FORECAST + b"\x00garbage\r\n\r\n")
        assert client.reply().status == 200
        assert_problem(client.reply(), 400)
        assert client.is_closed()


@pytest.mark.parametrize("data", [FORECAST, HEALTHZ])
def test_thousands_of_pipelined_requests_are_all_answered(data: bytes, server: Server) -> None:
    with server.client() as client:
        sender = threading.Thread(target=client.send, args=(data * 4000,))
        sender.start()
        statuses = {client.reply().status for _ in range(4000)}
        sender.join()
    assert statuses == {200}


def test_a_request_in_single_bytes_is_answered(server: Server) -> None:
    with server.client() as client:
        client.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        for data in (FORECAST, HEALTHZ):
            for i in range(len(data)):
                client.send(data[i : i + 1])
            assert client.reply().status == 200


def test_chunked_bodies_are_read(server: Server) -> None:
    def chunked(parts: list[bytes]) -> bytes:
        return b"".join(b"%x;a=b\r\n%b\r\n" % (len(part), part) for part in parts) + b"0\r\ntrailer: x\r\n\r\n"

    head = f"POST /forecast HTTP/1.1\r\nhost: x\r\ncontent-type: {JSON}\r\ntransfer-encoding: chunked\r\n\r\n".encode()
    with server.client() as client:
        for rows in ([ROW], many(300)):
            body = body_of(rows)
            client.send(head + chunked([body[i : i + 97] for i in range(0, len(body), 97)]))
            assert client.reply().probabilities() == server.forecast(rows).probabilities()
        client.send(head + chunked([b" " * 1_000_000] * 12))
        assert_problem(client.reply(), 413)


def test_http_1_0_and_connection_close_end_the_connection(server: Server) -> None:
    old = FORECAST.replace(b"HTTP/1.1", b"HTTP/1.0")
    last = request("POST", "/forecast", body_of([ROW]), connection="close")
    for data in (old, last, request("GET", "/healthz", connection="close"), HEALTHZ.replace(b"/1.1", b"/1.0")):
        with server.client() as client:
            client.send(data)
            reply = client.reply()
            assert (reply.status, reply.headers["connection"]) == (200, "close")
            assert client.is_closed()


@pytest.mark.parametrize("rows", [1, 300])
def test_a_client_that_expects_100_continue_gets_it(rows: int, server: Server) -> None:
    body = body_of(many(rows))
    whole = request("POST", "/forecast", body, expect="100-continue")
    with server.client() as client:
        for _ in range(2):
            client.send(whole.removesuffix(body))
            assert client.reply().status == 100
            client.send(body)
            assert len(client.reply().probabilities()) == rows


def test_a_client_that_expects_100_continue_for_too_much_need_not_send_it(server: Server) -> None:
    with server.client() as client:
        client.send(request("POST", "/forecast", content_length="12000000", expect="100-continue"))
        assert_problem(client.reply(), 413)
        assert client.is_closed()


@pytest.mark.parametrize("method", ["GET", "POST"])
def test_an_offer_to_upgrade_to_http_2_is_declined_by_answering(method: str, server: Server) -> None:
    # What Java's HttpClient sends with its first request, and curl with --http2.
    body = body_of([ROW]) if method == "POST" else b""
    offer = {"connection": "Upgrade, HTTP2-Settings", "upgrade": "h2c", "http2_settings": "AAMAAABkAARAAAAAAAIAAAAA"}
    with server.client() as client:
        client.socket.settimeout(5)
        path = "/forecast" if method == "POST" else "/healthz"
        assert client.ask(method, path, body, **offer).status == 200
        assert client.ask(method, path, body).status == 200
        assert client.ask("POST", "/forecast", body_of([ROW])).status == 200


def test_an_independent_client_gets_through(server: Server) -> None:
    connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=PATIENCE)
    for rows in (1, 300, 1):
        connection.request("POST", "/forecast", body_of(many(rows)), {"Content-Type": JSON})
        response = connection.getresponse()
        assert response.status == 200
        assert len(json.loads(response.read())["forecasts"]) == rows
    connection.close()


# Sizes


def test_a_body_of_12_megabytes_is_refused_and_the_client_reads_why(server: Server) -> None:
    for path in ("/forecast", "/invocations"):
        with server.client() as client:
            client.send(request("POST", path, b" " * 12_000_000))
            reply = client.reply()
            assert_problem(reply, 413)
            assert reply.headers["connection"] == "close"
            assert client.is_closed()
    # http.client sends everything before it reads anything.
    connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=PATIENCE)
    connection.request("POST", "/forecast", b" " * 12_000_000, {"Content-Type": JSON})
    assert connection.getresponse().status == 413
    connection.close()


def test_10000_rows_are_forecast_and_one_more_is_refused(server: Server) -> None:
    assert len(server.ask("POST", "/forecast", LARGE, content_type=CSV).probabilities()) == 10_000
    assert_problem(server.ask("POST", "/forecast", LARGE + b"Sydney,1.5,70\n", content_type=CSV), 413)
    row = {"Location": "Sydney", "Rainfall": 1.5}
    assert len(server.forecast([row] * 10_000).probabilities()) == 10_000
    assert_problem(server.forecast([row] * 10_001), 413)
    assert_problem(server.forecast([row | {"Rainfall": "1.5"}] * 10_001), 413)
    for rows, status in ((10_000, 200), (10_001, 413)):
        document = {"dataframe_split": {"columns": ["Location", "Rainfall"], "data": [["Sydney", 1.5]] * rows}}
        assert server.ask("POST", "/invocations", json.dumps(document).encode()).status == status


def test_the_event_loop_stays_free_during_10000_rows(server: Server, capsys: pytest.CaptureFixture[str]) -> None:
    for content_type, body in ((CSV, LARGE), (JSON, body_of([ROW] * 10_000))):
        with server.client() as large, server.client() as small:
            small.ask("GET", "/healthz")
            large.send(request("POST", "/forecast", body, content_type=content_type))
            taken, late = [], 0
            large.socket.setblocking(False)
            while late < 3:
                begun = time.perf_counter()
                assert small.ask("GET", "/healthz").status == 200
                taken.append(time.perf_counter() - begun)
                late += has_begun(large)
            large.socket.settimeout(PATIENCE)
            assert len(large.reply().probabilities()) == 10_000
        assert len(taken) > 10
        p99 = sorted(taken)[int(len(taken) * 0.99)]
        with capsys.disabled():
            print(f"\n  /healthz during 10,000 rows of {content_type}: {len(taken)} answers, p99 {p99 * 1000:.1f} ms")


def has_begun(client: Client) -> bool:
    """Whether the answer has begun to arrive, within the timeout of the socket."""
    try:
        return bool(client.socket.recv(1, socket.MSG_PEEK))
    except (BlockingIOError, TimeoutError):
        return False


# Slow and absent clients


def test_truncated_requests_leave_the_service_alone(server: Server) -> None:
    for data in (b"GET /hea", FORECAST[:-1], request("POST", "/forecast", body_of(many(300)))[:-1], b"\r\n", b""):
        for _ in range(50):
            with server.client() as client:
                client.send(data)
    large = request("POST", "/forecast", body_of(many(300)), x_request_id="cut-off")
    with server.client() as client:
        client.send(large[:-1])
    assert server.logged("cut-off")["status"] == 499
    assert server.ask("GET", "/healthz").status == 200
    # The connection of the question is open itself, and so is perhaps one that is about to be closed.
    files = server.metric("process_open_fds")
    assert eventually(lambda: server.metric("process_open_fds") <= files) is True
    assert "Traceback" not in server.stderr()


STALLED = {
    "nothing": b"",
    "half a head": HEALTHZ[:-2],
    "half a body": FORECAST[:-1],
    "half a large body": request("POST", "/forecast", b" " * 50_000)[:-1],
    "half a chunked body": request("POST", "/forecast", transfer_encoding="chunked").replace(
        b"content-length: 0\r\n", b""
    )
    + b"5\r\nab",
}


def endings(server: Server, requests: dict[str, bytes]) -> dict[str, list[int]]:
    """The statuses with which each of these connections ends, all open at once; 0 for one that is still open then."""
    found: dict[str, list[int]] = {}
    with ExitStack() as stack:
        clients = {name: stack.enter_context(server.client()) for name in requests}
        for name, client in clients.items():
            client.send(requests[name])
        end = time.monotonic() + 5
        for name, client in clients.items():
            found[name] = []
            try:
                while not found[name] or found[name][-1] == 200:
                    client.socket.settimeout(max(0.01, end - time.monotonic()))
                    found[name].append(client.reply().status)
                assert client.is_closed()
            except TimeoutError:
                found[name].append(0)
    return found


def test_stalled_requests_are_closed_with_408_while_others_are_served(hasty: Server) -> None:
    ended: dict[str, list[int]] = {}
    waiter = threading.Thread(target=lambda: ended.update(endings(hasty, STALLED)))
    waiter.start()
    answers = 0
    with hasty.client() as other:
        while waiter.is_alive():
            assert other.ask("POST", "/forecast", body_of([ROW])).status == 200
            answers += 1
            time.sleep(0.01)
    waiter.join()
    assert ended == {name: [408] for name in STALLED}
    assert answers > 10


@pytest.mark.parametrize("first", [HEALTHZ, FORECAST])
def test_stalled_requests_behind_another_are_closed_too(first: bytes, hasty: Server) -> None:
    behind = {name: first + data for name, data in STALLED.items() if data}
    assert endings(hasty, behind) == {name: [200, 408] for name in behind}


def test_dripping_requests_are_closed(hasty: Server) -> None:
    dripping = {
        "headers": HEALTHZ[:-2] + b"x: " + b"a" * 1000,
        "blank lines": b"\r\n" * 1000,
        "body": request("POST", "/forecast", b" " * 1000),
        "large body": request("POST", "/forecast", b" " * 20_000),
    }
    with ExitStack() as stack:
        clients = {name: stack.enter_context(hasty.client()) for name in dripping}
        for name, client in clients.items():
            client.send(dripping[name][:150])
            client.socket.settimeout(0.005)
        for i in range(150, 1000):
            for name in [name for name, client in clients.items() if not has_begun(client)]:
                clients[name].send(dripping[name][i : i + 1])
            if all(map(has_begun, clients.values())):
                break
        for client in clients.values():
            client.socket.settimeout(PATIENCE)
            assert_problem(client.reply(), 408)


def test_blank_lines_do_not_keep_a_connection_open(trained: Path, tmp_path: Path) -> None:
    setup = f"{HASTY}; http_protocol.KEEP_ALIVE_SECONDS = 1"
    with started(tmp_path, "--model", trained, setup=setup) as server:
        for data in (HEALTHZ, FORECAST):
            for more in (b"", b"\r\n"):
                with server.client() as client:
                    client.socket.settimeout(5)
                    client.send(data)
                    assert client.reply().status == 200
                    client.send(more)
                    client.file.read()


# Many connections


def test_the_51st_connection_is_refused_until_one_closes(trained: Path, tmp_path: Path) -> None:
    with (
        started(tmp_path, "--model", trained, setup="http_protocol.Connection.limit = 50") as server,
        ExitStack() as stack,
    ):
        clients = [stack.enter_context(server.client()) for _ in range(50)]
        for client in clients:
            assert client.ask("GET", "/healthz").status == 200
        for data in (b"", HEALTHZ, FORECAST, request("POST", "/forecast", body_of(many(300)))):
            reply = server.raw(data)
            assert_problem(reply, 503)
            assert reply.json()["detail"] == "50 connections are open, which is the limit"
            assert reply.headers["retry-after"] and reply.headers["connection"] == "close"
        assert clients[0].ask("GET", "/healthz").status == 200
        clients[1].close()
        assert eventually(lambda: server.raw(HEALTHZ).status == 200)
        assert eventually(lambda: server.forecast([ROW]).status == 200)


def test_10000_connections_are_held_and_the_next_is_told_why(trained: Path, tmp_path: Path) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    limit = 10_000 if hard >= 10_200 else hard - 200
    setup = f"http_protocol.Connection.limit = {limit}; " + FILES.format(soft=hard, hard=hard)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    try:
        with started(tmp_path, "--model", trained, setup=setup) as server, ExitStack() as stack:
            first = stack.enter_context(server.client())
            assert first.ask("GET", "/healthz").status == 200
            opened = [
                stack.enter_context(socket.create_connection(("127.0.0.1", server.port))) for _ in range(limit - 1)
            ]
            assert first.ask("GET", "/healthz").status == 200
            assert_problem(server.raw(FORECAST), 503)
            assert len(first.ask("POST", "/forecast", body_of(many(300))).probabilities()) == 300
            opened[-1].close()
            assert eventually(lambda: server.raw(FORECAST).status == 200)
            for held in opened[:-1:97]:
                held.sendall(FORECAST)
            for held in opened[:-1:97]:
                held.settimeout(PATIENCE)
                assert held.recv(15) == b"HTTP/1.1 200 OK"
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def test_the_limit_of_open_files_is_raised_as_far_as_it_may_be(trained: Path, tmp_path: Path) -> None:
    # The soft limit of many systems is 1,024, a tenth of the connections that are allowed.
    setup = FILES.format(soft=128, hard=512)
    with started(tmp_path, "--model", trained, setup=setup) as server, ExitStack() as stack:
        for client in [stack.enter_context(server.client()) for _ in range(300)]:
            assert client.ask("GET", "/healthz").status == 200


def test_where_files_are_scarce_the_limit_is_lower_and_still_said(trained: Path, tmp_path: Path) -> None:
    setup = FILES.format(soft=128, hard=128)
    with started(tmp_path, "--model", trained, setup=setup) as server, ExitStack() as stack:
        first = stack.enter_context(server.client())
        for _ in range(150):
            stack.enter_context(socket.create_connection(("127.0.0.1", server.port)))
        assert first.ask("GET", "/healthz").status == 200
        assert_problem(server.raw(FORECAST), 503)


# The end


def test_sigterm_drains_then_ends_with_0(trained: Path, tmp_path: Path) -> None:
    with started(tmp_path, "--model", trained, "--drain-seconds", 1) as server:
        kept, idle = Client(server.port), Client(server.port)
        assert kept.ask("GET", "/readyz").headers.get("connection") is None
        assert idle.ask("GET", "/readyz").status == 200
        server.process.send_signal(signal.SIGTERM)
        reply = eventually(lambda: (reply := server.ask("GET", "/readyz")).status == 503 and reply)
        assert_problem(reply, 503)
        for path, body in (("/forecast", body_of([ROW])), ("/forecast", body_of(many(300))), ("/invocations", b"{}")):
            reply = server.ask("POST", path, body)
            assert reply.status == (422 if body == b"{}" else 200)
            assert reply.headers["connection"] == "close"
        assert server.ask("GET", "/healthz").status == 200
        assert server.metric("raincast_ready") == 0
        assert server.process.poll() is None
        reply = kept.ask("POST", "/forecast", body_of([ROW]))
        assert (reply.status, reply.headers["connection"]) == (200, "close")
        assert kept.is_closed()
        assert idle.is_closed()
        assert server.process.wait(PATIENCE) == 0
        kept.close()
        idle.close()
        assert server.stderr().count("\n") == 1
        assert [line["status"] for line in server.log()].count(503) >= 1


def test_sigint_ends_at_once_with_0_and_a_second_sigterm_ends_the_drain(trained: Path, tmp_path: Path) -> None:
    with started(tmp_path / "int", "--model", trained, "--drain-seconds", 3600) as server:
        assert server.stop(signal.SIGINT) == 0
        assert server.stderr().count("\n") == 1
    with started(tmp_path / "term", "--model", trained, "--drain-seconds", 3600) as server:
        server.process.send_signal(signal.SIGTERM)
        eventually(lambda: server.ask("GET", "/readyz").status == 503)
        assert server.stop(signal.SIGTERM) == 0


def test_a_large_request_in_flight_is_answered_after_sigterm(trained: Path, tmp_path: Path) -> None:
    with started(tmp_path, "--model", trained) as server, server.client() as client:
        client.send(request("POST", "/forecast", LARGE, content_type=CSV))
        eventually(lambda: server.metric("raincast_waiting_requests") == 1)
        server.process.send_signal(signal.SIGTERM)
        assert len(client.reply().probabilities()) == 10_000
        assert client.is_closed()
        assert server.process.wait(PATIENCE) == 0
        assert server.log()[-1]["rows"] == 10_000


def test_stalled_requests_do_not_keep_the_service_from_ending(trained: Path, tmp_path: Path) -> None:
    with started(tmp_path, "--model", trained, setup=HASTY) as server, ExitStack() as stack:
        for data in STALLED.values():
            stack.enter_context(server.client()).send(data)
        assert server.ask("GET", "/healthz").status == 200
        assert server.stop() == 0
        assert "Traceback" not in server.stderr()


class Load(threading.Thread):
    """Requests without a pause, on a new connection where the service closed the last one, until it takes no more."""

    def __init__(self, port: int, rows: int) -> None:
        super().__init__()
        self.port, self.data = port, request("POST", "/forecast", body_of(many(rows)))
        self.answered = self.closed = 0
        # When requests without an answer were sent, and what came instead.
        self.lost: list[tuple[float, str]] = []

    def run(self) -> None:
        """Until the service takes no more connections."""
        while True:
            try:
                client = Client(self.port)
            except ConnectionRefusedError:
                return
            except ConnectionResetError:
                # Between the handshake and the service's accepting it: nothing was sent yet.
                continue
            with closing(client):
                self.ask(client)

    def ask(self, client: Client) -> None:
        """Requests on one connection until the service closes it."""
        while True:
            sent = time.monotonic()
            try:
                client.send(self.data)
                sent = time.monotonic()
                reply = client.reply()
            except OSError as error:
                self.lost.append((sent, repr(error)))
                return
            if reply.status != 200:
                self.lost.append((sent, repr(reply)))
            self.answered += 1
            if reply.headers.get("connection") == "close":
                self.closed += 1
                return


def test_no_request_is_lost_when_the_service_ends_under_load(trained: Path, tmp_path: Path) -> None:
    last_accepted = 0.0
    with started(tmp_path, "--model", trained, "--drain-seconds", 1) as server:
        load = [Load(server.port, rows) for rows in [1, 100] * 4]
        for client in load:
            client.start()
        eventually(lambda: all(client.answered > 5 for client in load))
        assert not any(client.closed for client in load)
        server.process.send_signal(signal.SIGTERM)
        while True:
            begun = time.monotonic()
            try:
                Client(server.port).close()
            except (ConnectionRefusedError, ConnectionResetError):
                break
            last_accepted = begun
            time.sleep(0.001)
        assert server.process.wait(PATIENCE) == 0
        for client in load:
            client.join()
        assert all(client.closed for client in load)
        # At `last_accepted` the service still took connections: whatever was sent before has its answer.
        lost = [moment for client in load for moment in client.lost]
        assert [what for sent, what in lost if sent < last_accepted] == []
        logged = sum(line["path"] == "/forecast" for line in server.log())
        assert 0 <= logged - sum(client.answered for client in load) <= len(lost)
