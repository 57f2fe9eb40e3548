"""Connections: unusual requests, limits of size, time and number, and the end of the service."""

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
    FORECAST,
    HASTY,
    HEALTHZ,
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
LARGE = b"Location,Rainfall,Humidity3pm\n" + b"Sydney,1.5,70\n" * 10_000


@pytest.fixture(name="server", scope="module")
def fixture_server(trained: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """Start a service with the usual limits."""
    with started(tmp_path_factory.mktemp("server"), "--model", trained) as server:
        yield server


@pytest.fixture(name="hasty", scope="module")
def fixture_hasty(trained: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """Start a service that waits one second for headers and two for a request."""
    with started(tmp_path_factory.mktemp("hasty"), "--model", trained, setup=HASTY) as server:
        yield server


def assert_problem(reply: Reply, status: int) -> None:
    """Assert that a response is a problem document with this status and a detail."""
    assert (reply.status, reply.headers["content-type"]) == (status, "application/problem+json"), reply
    document = reply.json()
    assert document["status"] == status
    assert document["detail"]


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
def test_invalid_http_is_refused(data: bytes, server: Server) -> None:
    with server.client() as client:
        client.send(data)
        assert_problem(client.reply(), 400)
        assert client.is_closed()
    assert server.ask("GET", "/healthz").status == 200


@pytest.mark.parametrize("size", [100_000, 2_000_000])
def test_too_large_headers_are_refused(size: int, server: Server) -> None:
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
    separate = [server.raw(data) for data in asked]
    with server.client() as client:
        client.send(b"".join(asked * 3))
        for expected in separate * 3:
            reply = client.reply()
            assert (reply.status, reply.body) == (expected.status, expected.body)
        client.socket.shutdown(socket.SHUT_WR)
        assert client.is_closed()


def test_simultaneous_requests_get_the_same_responses_as_separate_ones(server: Server) -> None:
    rows = [{"Location": place, "Rainfall": 0.4 * i, "Humidity3pm": 3 * i} for i, place in enumerate(["Sydney"] * 30)]
    bodies = [*map(body_of, ([row] for row in rows)), body_of([ROW | {"Humidity3pm": 101}]), body_of(many(5)), b"{"]
    separate = [server.ask("POST", "/forecast", body) for body in bodies]
    with ExitStack() as stack:
        clients = [stack.enter_context(server.client()) for _ in bodies]
        for _ in range(5):
            for client, body in zip(clients, bodies, strict=True):
                client.send(request("POST", "/forecast", body, X_Request_Id=f"id-{clients.index(client)}"))
            for i, (client, expected) in enumerate(zip(clients, separate, strict=True)):
                reply = client.reply()
                assert (reply.status, reply.headers["x-request-id"]) == (expected.status, f"id-{i}")
                if reply.status == 200:
                    assert reply.probabilities() == pytest.approx(expected.probabilities(), rel=0, abs=1e-12)
                else:
                    assert reply.body == expected.body


def test_a_client_that_stops_sending_after_a_request_gets_its_response(server: Server) -> None:
    with server.client() as client:
        client.send(FORECAST)
        client.socket.shutdown(socket.SHUT_WR)
        assert client.reply().status == 200
        assert client.is_closed()


def test_garbage_after_a_request_is_refused_after_its_response(server: Server) -> None:
    with server.client() as client:
        client.send(FORECAST + b"\x00garbage\r\n\r\n")
        assert client.reply().status == 200
        assert_problem(client.reply(), 400)
        assert client.is_closed()


@pytest.mark.parametrize("data", [FORECAST, HEALTHZ])
def test_thousands_of_pipelined_requests_are_answered(data: bytes, server: Server) -> None:
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
    with server.client() as client:
        for rows in ([ROW], many(300)):
            body = body_of(rows)
            client.send(chunked_request([body[i : i + 97] for i in range(0, len(body), 97)]))
            assert client.reply().probabilities() == server.forecast(rows).probabilities()
        client.send(chunked_request([b" " * 1_000_000] * 12))
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
    head = request("POST", "/forecast", body, expect="100-continue").removesuffix(body)
    with server.client() as client:
        for _ in range(2):
            client.send(head)
            assert client.reply().status == 100
            client.send(body)
            assert len(client.reply().probabilities()) == rows


def test_a_client_that_expects_100_continue_for_too_much_need_not_send_it(server: Server) -> None:
    with server.client() as client:
        client.send(request("POST", "/forecast", content_length="12000000", expect="100-continue"))
        assert_problem(client.reply(), 413)
        assert client.is_closed()


# What Java's HttpClient sends with its first request, and curl with --http2.
OFFER = {"connection": "Upgrade, HTTP2-Settings", "upgrade": "h2c", "http2_settings": "AAMAAABkAARAAAAAAAIAAAAA"}


@pytest.mark.parametrize("method", ["GET", "POST"])
def test_an_offer_to_upgrade_to_http_2_is_declined_with_the_response(method: str, server: Server) -> None:
    body = body_of([ROW]) if method == "POST" else b""
    with server.client() as client:
        client.socket.settimeout(5)
        path = "/forecast" if method == "POST" else "/healthz"
        assert client.ask(method, path, body, **OFFER).status == 200
        assert client.ask(method, path, body).status == 200
        assert client.ask("POST", "/forecast", body_of([ROW])).status == 200


def chunked(parts: list[bytes], trailer: bytes = b"trailer: x") -> bytes:
    """Return a body with Transfer-Encoding: chunked."""
    return b"".join(b"%x;a=b\r\n%b\r\n" % (len(part), part) for part in parts) + b"0\r\n%b\r\n\r\n" % trailer


def chunked_request(parts: list[bytes], trailer: bytes = b"trailer: x", /, **headers: str) -> bytes:
    """Return a POST /forecast whose body is chunked."""
    head = request("POST", "/forecast", transfer_encoding="chunked", **headers).replace(b"content-length: 0\r\n", b"")
    return head + chunked(parts, trailer)


UPGRADES = {
    "GET": request("GET", "/healthz", **OFFER),
    "POST": request("POST", "/forecast", body_of([ROW]), **OFFER),
    "large POST": request("POST", "/forecast", body_of(many(300)), **OFFER),
    "chunked POST": chunked_request([body_of([ROW])[:20], body_of([ROW])[20:]], **OFFER),
    "100-continue": request("POST", "/forecast", body_of([ROW]), expect="100-continue", **OFFER),
    "WebSocket": request("GET", "/healthz", connection="Upgrade", upgrade="websocket", sec_websocket_version="13"),
}


@pytest.mark.parametrize("case", UPGRADES)
@pytest.mark.parametrize("size", [1, 7, 1_000_000])
@pytest.mark.parametrize("before", [b"", b"\r\n", FORECAST, HEALTHZ + b"\r\n", FORECAST + UPGRADES["POST"]])
def test_an_offer_to_upgrade_is_declined_in_any_place_and_pieces(
    before: bytes, size: int, case: str, server: Server
) -> None:
    data = before + UPGRADES[case] + FORECAST
    with server.client() as client:
        client.socket.settimeout(10)
        client.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        for i in range(0, len(data), size):
            client.send(data[i : i + size])
        statuses = [client.reply().status for _ in range(data.count(b"host: "))]
        if case == "100-continue":
            # Sent unless the body has already arrived.
            statuses += [client.reply().status for _ in range(statuses.count(100))]
        assert {status for status in statuses if status != 100} == {200}
        client.socket.shutdown(socket.SHUT_WR)
        assert client.is_closed()


@pytest.mark.parametrize("offer", [{}, OFFER])
def test_a_body_is_never_parsed_as_a_request(offer: dict[str, str], server: Server) -> None:
    inner = b"\r\n\r\n" + request("GET", "/version", **OFFER) * 3
    for data in (request("POST", "/forecast", inner, **offer), chunked_request([inner], **offer)):
        for gap in (0.0, 0.02):
            with server.client() as client:
                head, separator, rest = data.partition(b"\r\n\r\n")
                client.send(head + separator)
                time.sleep(gap)
                client.send(rest + FORECAST)
                assert_problem(client.reply(), 400)
                assert client.reply().status == 200
                client.socket.shutdown(socket.SHUT_WR)
                assert client.is_closed()


@pytest.mark.parametrize("offer", [{}, OFFER])
def test_a_line_of_a_body_that_looks_like_an_offer_is_kept(offer: dict[str, str], server: Server) -> None:
    body = b"Location,Rainfall\r\nUpgrade: h2c,1.5\r\nupgrade:x,2\r\n"
    for more in (b"", b"Sydney,1.5\r\n" * 2_000):
        head, separator, rest = request("POST", "/forecast", body + more, content_type=CSV, **offer).partition(
            b"\r\n\r\n"
        )
        with server.client() as client:
            client.send(head + separator)
            time.sleep(0.02)
            client.send(rest)
            reply = client.reply()
            assert [forecast["Location"] for forecast in reply.json()["forecasts"][:2]] == ["Upgrade: h2c", "upgrade:x"]


def test_an_offer_to_upgrade_keeps_the_version_and_the_rules_of_http(server: Server) -> None:
    with server.client() as client:
        client.send(UPGRADES["POST"].replace(b"HTTP/1.1", b"HTTP/1.0"))
        reply = client.reply()
        assert (reply.status, reply.headers["connection"]) == (200, "close")
        assert client.is_closed()
    assert_problem(server.raw(request("GET", "/healthz", x="a" * 70_000, **OFFER)), 431)
    assert_problem(server.raw(request("GET", "http://", **OFFER)), 400)
    both = request("POST", "/forecast", b"0\r\n\r\n", transfer_encoding="chunked", **OFFER)
    assert_problem(server.raw(both), 400)


def test_thousands_of_offers_to_upgrade_in_one_piece_are_declined(server: Server) -> None:
    with server.client() as client:
        data = request("GET", "/healthz", connection="upgrade", upgrade="x") * 4000
        sender = threading.Thread(target=client.send, args=(data,))
        sender.start()
        assert {client.reply().status for _ in range(4000)} == {200}
        sender.join()
    assert "Traceback" not in server.stderr()


def test_trailers_are_not_headers(server: Server) -> None:
    for trailer in (b"content-type: text/csv", b"x-request-id: trailing", b"connection: upgrade\r\nupgrade: h2c"):
        with server.client() as client:
            client.send(chunked_request([body_of([ROW])], trailer) + FORECAST)
            reply = client.reply()
            assert reply.status == 200
            assert reply.headers["x-request-id"] != "trailing"
            assert client.reply().status == 200


@pytest.mark.parametrize(
    ("data", "status"),
    [
        (b"\x00garbage\r\n\r\n", 400),
        (b"CONNECT example.org:443 HTTP/1.1\r\nhost: example.org\r\n\r\n", 501),
        (b"GET /healthz HTTP/1.1\r\nx: " + b"a" * 70_000 + b"\r\n\r\n", 431),
        (
            request("POST", "/forecast", transfer_encoding="chunked").replace(b"content-length: 0\r\n", b"")
            + b"zz\r\n",
            400,
        ),
    ],
)
@pytest.mark.parametrize("before", [[], [200], [200, 200, 200]])
def test_an_error_after_pending_requests_comes_after_their_responses(
    before: list[int], data: bytes, status: int, server: Server
) -> None:
    large = request("POST", "/forecast", LARGE, content_type=CSV)
    requests = [large, FORECAST, UPGRADES["large POST"]][: len(before)]
    with server.client() as client:
        client.send(b"".join(requests) + data)
        statuses = []
        for number in range(len(before)):
            reply = client.reply()
            statuses.append(reply.status)
            if number == 0:
                assert len(reply.probabilities()) == 10_000
        assert statuses == before
        assert_problem(client.reply(), status)
        assert client.is_closed()


def test_complete_requests_of_a_client_that_stops_sending_are_answered(server: Server) -> None:
    large = request("POST", "/forecast", LARGE, content_type=CSV)
    for cut in (FORECAST[:-1], large[:-1], HEALTHZ[:-2], b"", b"\x00"):
        for waiting in ([large], [FORECAST, large, HEALTHZ, FORECAST]):
            with server.client() as client:
                client.send(b"".join(waiting) + cut)
                client.socket.shutdown(socket.SHUT_WR)
                assert [client.reply().status for _ in waiting] == [200] * len(waiting)
                if cut == b"\x00":
                    assert_problem(client.reply(), 400)
                assert client.is_closed()


def test_an_independent_client_is_served(server: Server) -> None:
    connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=PATIENCE)
    for rows in (1, 300, 1):
        connection.request("POST", "/forecast", body_of(many(rows)), {"Content-Type": JSON})
        response = connection.getresponse()
        assert response.status == 200
        assert len(json.loads(response.read())["forecasts"]) == rows
    connection.close()


def test_a_body_of_12_megabytes_is_refused_with_a_readable_response(server: Server) -> None:
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
            print(f"\n  /healthz during 10,000 rows of {content_type}: {len(taken)} responses, p99 {p99 * 1000:.1f} ms")


def has_begun(client: Client) -> bool:
    """Return True if the response begins to arrive within the timeout of the socket."""
    try:
        return bool(client.socket.recv(1, socket.MSG_PEEK))
    except (BlockingIOError, TimeoutError):
        return False


def test_truncated_requests_do_not_harm_the_service(server: Server) -> None:
    for data in (b"GET /hea", FORECAST[:-1], request("POST", "/forecast", body_of(many(300)))[:-1], b"\r\n", b""):
        for _ in range(50):
            with server.client() as client:
                client.send(data)
    large = request("POST", "/forecast", body_of(many(300)), x_request_id="cut-off")
    with server.client() as client:
        client.send(large[:-1])
    assert server.logged("cut-off")["status"] == 499
    assert server.ask("GET", "/healthz").status == 200
    # The connection of this request is open, and perhaps one that is about to be closed.
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
    """Return the statuses on each of these simultaneous connections; 0 for one that is still open after 5 s."""
    statuses: dict[str, list[int]] = {}
    with ExitStack() as stack:
        clients = {name: stack.enter_context(server.client()) for name in requests}
        for name, client in clients.items():
            client.send(requests[name])
        end = time.monotonic() + 5
        for name, client in clients.items():
            statuses[name] = []
            try:
                while not statuses[name] or statuses[name][-1] == 200:
                    client.socket.settimeout(max(0.01, end - time.monotonic()))
                    statuses[name].append(client.reply().status)
                assert client.is_closed()
            except TimeoutError:
                statuses[name].append(0)
    return statuses


def test_stalled_requests_are_closed_with_408_while_others_are_served(hasty: Server) -> None:
    ended: dict[str, list[int]] = {}
    waiter = threading.Thread(target=lambda: ended.update(endings(hasty, STALLED)))
    waiter.start()
    responses = 0
    with hasty.client() as other:
        while waiter.is_alive():
            assert other.ask("POST", "/forecast", body_of([ROW])).status == 200
            responses += 1
            time.sleep(0.01)
    waiter.join()
    assert ended == {name: [408] for name in STALLED}
    assert responses > 10


@pytest.mark.parametrize("first", [HEALTHZ, FORECAST])
def test_stalled_requests_after_another_are_closed_too(first: bytes, hasty: Server) -> None:
    requests = {name: first + data for name, data in STALLED.items() if data}
    assert endings(hasty, requests) == {name: [200, 408] for name in requests}


def test_a_large_request_that_takes_too_long_is_refused_and_the_next_is_answered(trained: Path, tmp_path: Path) -> None:
    slow = "import time; from raincast.serving import forecaster; build = forecaster.feature_matrix"
    slow += "; forecaster.feature_matrix = lambda table, **days: (time.sleep(4), build(table, **days))[1]"
    with started(tmp_path, "--model", trained, setup=f"{HASTY}; {slow}") as server, server.client() as client:
        client.send(request("POST", "/forecast", LARGE, content_type=CSV, x_request_id="late") + FORECAST)
        client.socket.settimeout(3)
        assert_problem(client.reply(), 503)
        assert client.reply().status == 200
        assert client.ask("GET", "/healthz").status == 200
        assert server.logged("late")["status"] == 503
        assert server.stop() == 0


def test_a_client_that_does_not_read_is_closed_and_gets_no_response_inside_another(hasty: Server) -> None:
    alive = hasty.ask("GET", "/healthz").body
    files = hasty.metric("process_open_fds")
    with ExitStack() as stack:
        clients = [stack.enter_context(hasty.client()) for _ in range(8)]
        for i, client in enumerate(clients):
            client.socket.setblocking(False)
            data = request("GET", "/healthz" + "?" * i) * 2000
            try:
                while True:
                    client.socket.send(data)
            except BlockingIOError:
                pass
        assert hasty.ask("GET", "/healthz").status == 200
        assert eventually(lambda: hasty.metric("process_open_fds") <= files)
        for client in clients:
            client.socket.setblocking(True)
            client.socket.settimeout(PATIENCE)
            last = 200
            with pytest.raises(ConnectionError):
                while True:
                    reply = client.reply()
                    assert last == 200
                    last = reply.status
                    assert (reply.status == 408) or (reply.status, reply.body) == (200, alive)


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


def test_the_51st_connection_is_refused_while_none_of_the_others_is_idle(trained: Path, tmp_path: Path) -> None:
    with (
        started(tmp_path, "--model", trained, setup="http_protocol.Connection.limit = 50") as server,
        ExitStack() as stack,
    ):
        clients = [stack.enter_context(server.client()) for _ in range(50)]
        for client in clients:
            assert client.ask("GET", "/healthz").status == 200
            client.send(FORECAST[:-1])
        eventually(lambda: server.raw(b"").status == 503)
        for data in (b"", HEALTHZ, FORECAST, request("POST", "/forecast", body_of(many(300)))):
            reply = server.raw(data)
            assert_problem(reply, 503)
            assert reply.json()["detail"] == "50 connections are open, which is the limit"
            assert reply.headers["retry-after"] and reply.headers["connection"] == "close"
        clients[0].send(FORECAST[-1:])
        assert clients[0].reply().status == 200
        # It is idle now, and makes room.
        assert eventually(lambda: server.forecast([ROW]).status == 200)
        for client in clients[1:]:
            client.send(FORECAST[-1:])
            assert client.reply().status == 200


def test_10000_connections_are_held_and_the_next_takes_the_place_of_the_longest_idle(
    trained: Path, tmp_path: Path
) -> None:
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
            assert server.raw(FORECAST).status == 200
            assert len(first.ask("POST", "/forecast", body_of(many(300))).probabilities()) == 300
            opened[0].settimeout(PATIENCE)
            assert opened[0].recv(1) == b""
            for held in opened[-1 : limit // 2 : -97]:
                held.sendall(FORECAST)
            for held in opened[-1 : limit // 2 : -97]:
                held.settimeout(PATIENCE)
                assert held.recv(15) == b"HTTP/1.1 200 OK"
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def test_the_limit_of_open_files_is_raised_to_the_hard_limit(trained: Path, tmp_path: Path) -> None:
    # The soft limit of many systems is 1,024, a tenth of the connections that are allowed.
    setup = FILES.format(soft=128, hard=512)
    with started(tmp_path, "--model", trained, setup=setup) as server, ExitStack() as stack:
        for client in [stack.enter_context(server.client()) for _ in range(300)]:
            assert client.ask("GET", "/healthz").status == 200


def test_a_low_limit_of_open_files_lowers_the_limit_of_connections(trained: Path, tmp_path: Path) -> None:
    setup = FILES.format(soft=128, hard=200)
    with started(tmp_path, "--model", trained, setup=setup) as server, ExitStack() as stack:
        opened = [stack.enter_context(socket.create_connection(("127.0.0.1", server.port))) for _ in range(150)]
        assert server.raw(FORECAST).status == 200
        assert server.metric("process_max_fds") == 200
        assert server.metric("process_open_fds") <= 200
        kept = [connection for connection in opened if not is_closed(connection)]
        assert 100 < len(kept) < 200 - 64
        kept[0].sendall(FORECAST)
        kept[0].settimeout(PATIENCE)
        assert kept[0].recv(15) == b"HTTP/1.1 200 OK"


def is_closed(connection: socket.socket) -> bool:
    """Return True if the service has closed a connection on which it has sent nothing."""
    connection.setblocking(False)
    try:
        return connection.recv(1) == b""
    except BlockingIOError:
        return False


def test_sigterm_drains_then_ends_with_0(trained: Path, tmp_path: Path) -> None:
    with started(tmp_path, "--model", trained, "--drain-seconds", 1) as server:
        kept, idle = Client(server.port), Client(server.port)
        assert kept.ask("GET", "/readyz").headers.get("connection") is None
        assert idle.ask("GET", "/readyz").status == 200
        server.process.send_signal(signal.SIGTERM)

        def draining() -> Reply | None:
            reply = server.ask("GET", "/readyz")
            return reply if reply.status == 503 else None

        reply = eventually(draining)
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


def test_sigint_or_a_second_sigterm_ends_the_drain_with_0(trained: Path, tmp_path: Path) -> None:
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
    """Requests without a pause, on a new connection if the service closed the last one, until it accepts no more."""

    def __init__(self, port: int, rows: int) -> None:
        super().__init__()
        self.port, self.data = port, request("POST", "/forecast", body_of(many(rows)))
        self.answered = self.closed = 0
        # Requests without a good response: the time of sending and the error.
        self.lost: list[tuple[float, str]] = []

    def run(self) -> None:
        """Send requests until the service accepts no more connections."""
        while True:
            try:
                client = Client(self.port)
            except ConnectionRefusedError:
                return
            except ConnectionResetError:
                # The service did not accept it after the handshake; nothing was sent yet.
                continue
            with closing(client):
                self.ask(client)

    def ask(self, client: Client) -> None:
        """Send requests on one connection until the service closes it."""
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
        # At `last_accepted` the service still accepted connections: earlier requests have their responses.
        lost = [moment for client in load for moment in client.lost]
        assert [error for sent, error in lost if sent < last_accepted] == []
        logged = sum(line["path"] == "/forecast" for line in server.log())
        assert 0 <= logged - sum(client.answered for client in load) <= len(lost)
