"""Streams of bytes to the server's connection: pipelined requests, valid and damaged, whole and in pieces."""

from __future__ import annotations

import asyncio
import re
import socket
from collections.abc import Iterator, Sequence
from contextlib import closing, redirect_stdout, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import h11
import pytest
import uvicorn
import uvloop
from hypothesis import given
from hypothesis import strategies as st
from uvicorn.server import ServerState

from raincast.forecasting import model
from raincast.serving.app import Service
from raincast.serving.fast_path import FastConnection
from raincast.serving.receiver import receiving
from tests.fuzz.mutations import as_csv, as_json, mutated, records
from tests.integration.serving import PATIENCE, ROW, body_of, many

# Bytes of a body that would be a request if the body were framed wrongly.
SMUGGLED = b"GET /version HTTP/1.1\r\nhost: x\r\n\r\n"
BODIES = st.one_of(
    st.sampled_from((b"", body_of([ROW]), body_of(many(3)), b"{", SMUGGLED, b"Upgrade: x\r\n\r\n" + SMUGGLED)),
    records.map(lambda rows: as_json({"observations": rows})),
    records.map(as_csv),
)
TARGETS = (
    "/forecast",
    "/invocations",
    "/healthz",
    "/readyz",
    "/version",
    "/docs/",
    "/nowhere",
    "*",
    "http://x/healthz",
    "x:1",
)
METHODS = ("GET", "POST", "POST", "HEAD", "CONNECT", "QUERY", "OPTIONS", "get")
VERSIONS = ("1.1", "1.1", "1.1", "1.1", "1.0", "0.9", "2.0", "9.9", "1.10")
FIELDS = (
    "content-type: application/json",
    "content-type: text/csv",
    "Upgrade: websocket",
    "Upgrade: h2c",
    "connection: upgrade",
    "connection: close",
    "connection: keep-alive",
    "expect: 100-continue",
    "expect: nothing",
    "host: y",
    "accept: text/csv",
    "x-request-id: of-the-client",
    "content-encoding: gzip",
    "trailer: x",
    "x: " + "a" * 300,
    "x : space",
    "no colon",
    " folded",
)
# Framings besides the right length and chunks; the service has to refuse them or to read one body.
FRAMINGS = (
    "content-length: abc",
    "content-length: -1",
    "content-length: +5",
    "content-length: 0x5",
    "content-length: 99999999999999999999999",
    "content-length: 5\r\ncontent-length: 5",
    "content-length: 5\r\ncontent-length: 6",
    "content-length: 5, 5",
    "content-length: 5\r\ntransfer-encoding: chunked",
    "transfer-encoding: gzip, chunked",
    "transfer-encoding: chunked, gzip",
    "transfer-encoding: xchunked",
    "transfer-encoding: chunked\r\ntransfer-encoding: chunked",
)


def chunked(body: bytes, size: int) -> bytes:
    """Return a body in chunks, with an extension and a trailer."""
    parts = [body[start : start + size] for start in range(0, len(body), size)]
    return b"".join(b"%x;a=b\r\n%b\r\n" % (len(part), part) for part in parts) + b"0\r\nx: trailer\r\n\r\n"


@st.composite
def messages(draw: st.DrawFn) -> bytes:
    """Return a request, often a usual one."""
    if draw(st.booleans()):
        return draw(st.sampled_from((POST, GET)))
    method, target, version = (draw(st.sampled_from(values)) for values in (METHODS, TARGETS, VERSIONS))
    fields = draw(st.sampled_from((["host: x"],) * 6 + ([], ["host: x", "host: x"], ["host: x", "host: y"])))
    fields = [*fields, *draw(st.lists(st.sampled_from(FIELDS), max_size=3))]
    body = draw(BODIES) if method in ("POST", "CONNECT", "QUERY") or draw(st.booleans()) else b""
    framing = draw(st.sampled_from(("length",) * 4 + ("chunks", "other")))
    if framing == "length" and (body or method == "POST"):
        fields.append(f"content-length: {len(body)}")
    elif framing == "chunks":
        fields.append("transfer-encoding: chunked")
        body = chunked(body, draw(st.integers(1, 400)))
    elif framing == "other":
        fields.append(draw(st.sampled_from(FRAMINGS)))
    head = f"{method} {target} HTTP/{version}\r\n" + "".join(field + "\r\n" for field in draw(st.permutations(fields)))
    return draw(st.sampled_from((b"", b"", b"", b"\r\n"))) + head.encode() + b"\r\n" + body


@st.composite
def regular(draw: st.DrawFn) -> bytes:
    """Return a valid request that leaves the connection open."""
    path, body = draw(st.sampled_from(("/forecast", "/invocations", "/nowhere", "/healthz"))), draw(BODIES)
    head = f"POST {path} HTTP/1.1\r\nhost: x\r\ncontent-type: {draw(st.sampled_from(('application/json', 'text/csv')))}"
    in_chunks = draw(st.booleans())
    framing = "transfer-encoding: chunked" if in_chunks else f"content-length: {len(body)}"
    post = f"{head}\r\n{framing}\r\n\r\n".encode() + (chunked(body, draw(st.integers(1, 400))) if in_chunks else body)
    return draw(st.sampled_from((GET, post, post)))


CONTINUE = b"HTTP/1.1 100 Continue\r\n\r\n"
GET = b"GET /healthz HTTP/1.1\r\nhost: x\r\n\r\n"
POST = b"POST /forecast HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n%b" % (
    len(body_of([ROW])),
    body_of([ROW]),
)


@dataclass(frozen=True)
class Reply:
    """A response without the headers that differ each time."""

    status: int
    headers: tuple[tuple[bytes, bytes], ...]
    body: bytes

    def closes(self) -> bool:
        """Return True if it is the last one of the connection."""
        return (b"connection", b"close") in self.headers


def parsed(data: bytes) -> list[Reply]:
    """Return the responses in what a connection has sent. Raises h11.RemoteProtocolError if they are not HTTP/1.1."""
    replies = []
    while data:
        if data.startswith(CONTINUE):
            data = data.removeprefix(CONTINUE)
            replies.append(Reply(100, (), b""))
            continue
        client = h11.Connection(h11.CLIENT)
        after = data.partition(b"\r\n\r\n")[2]
        # Only a response to HEAD has a length, and another response or nothing behind its head.
        method = "HEAD" if not after or after.startswith(b"HTTP/1.") else "GET"
        client.send(h11.Request(method=method, target="/", headers=[("host", "x")]))
        client.send(h11.EndOfMessage())
        client.receive_data(data)
        response, body = None, b""
        while not isinstance(event := client.next_event(), h11.EndOfMessage):
            if isinstance(event, h11.Response):
                response = event
            elif isinstance(event, h11.Data):
                body += event.data
            elif event is h11.NEED_DATA:
                client.receive_data(b"")
        data = client.trailing_data[0]
        assert response
        kept = tuple(header for header in response.headers if header[0] not in (b"date", b"x-request-id"))
        # The problem document of a refusal may have the identifier of its request.
        replies.append(Reply(response.status_code, kept, re.sub(rb'"request_id":"[^"]*"', b"", body)))
    return replies


class Connections:
    """Connections of the service in this process, each over a pair of sockets."""

    # pylint: disable=too-few-public-methods  # a loop and settings, set up once

    def __init__(self, service: Service, loop: asyncio.AbstractEventLoop) -> None:
        self.loop = loop
        self.errors: list[Any] = []
        self.config = uvicorn.Config(
            cast(Any, service), http=FastConnection, lifespan="off", ws="none", log_config=None, server_header=False
        )
        self.config.load()
        loop.set_exception_handler(lambda _, context: self.errors.append(context))

    def replies(self, pieces: Sequence[bytes]) -> list[Reply]:
        """Send pieces on a connection, then its end; return the responses. Errors of the protocol are asserted."""
        data = self.loop.run_until_complete(asyncio.wait_for(self._exchange(pieces), PATIENCE))
        assert not self.errors
        return parsed(data)

    async def _exchange(self, pieces: Sequence[bytes]) -> bytes:
        ours, theirs = socket.socketpair()
        with ours:
            for end in (ours, theirs):
                end.setblocking(False)
            state = ServerState()
            await self.loop.connect_accepted_socket(
                lambda: receiving(self.config, state, {}, self.loop),
                theirs,
            )
            reading = asyncio.create_task(self._read(ours))
            # The service may close the connection first.
            with suppress(BrokenPipeError, ConnectionResetError):
                for piece in pieces:
                    await self.loop.sock_sendall(ours, piece)
                    # The service reads it before the next one is sent.
                    await asyncio.sleep(0)
                    await asyncio.sleep(0)
                ours.shutdown(socket.SHUT_WR)
            return await reading

    async def _read(self, ours: socket.socket) -> bytes:
        received = b""
        with suppress(ConnectionResetError):
            while data := await self.loop.sock_recv(ours, 1 << 16):
                received += data
        return received


@pytest.fixture(name="connections", scope="module")
def fixture_connections(trained: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Connections]:
    """Start the application in this process, with its log in a file."""
    with (tmp_path_factory.mktemp("service") / "log").open("w", encoding="utf-8") as log, redirect_stdout(log):
        with closing(Service(model.load(trained))) as service, closing(uvloop.new_event_loop()) as loop:
            yield Connections(service, loop)


def cut(stream: bytes, places: Sequence[int]) -> list[bytes]:
    """Return a stream in pieces, cut at these places."""
    ends = sorted({place % (len(stream) + 1) for place in places} | {len(stream)})
    return [stream[start:end] for start, end in zip([0, *ends], ends, strict=False)]


def assert_responses(replies: list[Reply], stream: bytes) -> None:
    """Assert that responses are no failures, at most one for each request, and none after the last."""
    assert all(reply.status < 500 or reply.status in (501, 503, 505) for reply in replies), replies
    assert len([reply for reply in replies if reply.status != 100]) <= stream.count(b"HTTP/") + 1, replies
    assert not any(reply.closes() for reply in replies[:-1]), replies


@given(st.lists(regular(), min_size=1, max_size=5), st.lists(st.integers(0, 10_000), max_size=5))
def test_pipelined_requests_get_the_responses_of_separate_ones(
    connections: Connections, requests: list[bytes], places: list[int]
) -> None:
    separate = [connections.replies([request]) for request in requests]
    # More would be a body answered as if it were requests.
    assert all(len(replies) == 1 for replies in separate), separate
    expected = [(replies[0].status, replies[0].body) for replies in separate]
    together = connections.replies(cut(b"".join(requests), places))
    assert [(reply.status, reply.body) for reply in together] == expected


STREAMS = st.lists(messages(), min_size=1, max_size=4).map(b"".join)


@given(mutated(STREAMS), st.lists(st.integers(0, 10_000), min_size=1, max_size=12))
def test_a_stream_in_pieces_gets_the_same_responses_as_whole(
    connections: Connections, stream: bytes, places: list[int]
) -> None:
    whole = connections.replies([stream])
    assert_responses(whole, stream)
    pieces = cut(stream, places)
    assert connections.replies(pieces) == whole, pieces


@given(mutated(STREAMS))
def test_a_stream_byte_by_byte_gets_the_same_responses_as_whole(connections: Connections, stream: bytes) -> None:
    assert connections.replies([bytes([byte]) for byte in stream]) == connections.replies([stream]), stream
