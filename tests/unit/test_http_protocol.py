"""Connections over a transport that a test controls."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Awaitable, Callable, Iterator
from contextlib import closing, redirect_stdout
from itertools import pairwise
from pathlib import Path
from typing import Any, cast

import pytest
import uvicorn
from uvicorn.server import ServerState

from raincast.forecasting import model
from raincast.serving.app import Service
from raincast.serving.fast_path import FastConnection
from raincast.serving.framing import PIECE_BYTES
from raincast.serving.http_protocol import FIRST_READ_BYTES, PIECES_PER_TURN, UNSENT_BYTES
from raincast.serving.limits import READERS_PER_TURN, Turns
from raincast.serving.server import UNACKNOWLEDGED_BYTES, UNREAD_BYTES, listen

GET = b"GET /healthz HTTP/1.1\r\nhost: a\r\n\r\n"
POST = b"POST /forecast HTTP/1.1\r\nhost: a\r\ncontent-length: 9999999\r\n\r\n"


class Transport:
    """A transport whose bytes stay unsent."""

    def __init__(self) -> None:
        self.sent, self.closing, self.high, self.reads = b"", False, 0, True

    def get_extra_info(self, *_: Any) -> None:
        """Return None: it has no addresses."""

    def set_write_buffer_limits(self, high: int) -> None:
        """Note the limit."""
        self.high = high

    def get_write_buffer_size(self) -> int:
        """Return the number of unsent bytes."""
        return len(self.sent)

    def is_closing(self) -> bool:
        """Return True after `close`."""
        return self.closing

    def write(self, data: bytes) -> None:
        """Keep bytes."""
        self.sent += data

    def close(self) -> None:
        """Note the end; the connection is lost later, after the unsent bytes."""
        self.closing = True

    def write_eof(self) -> None:
        """Do nothing."""

    def pause_reading(self) -> None:
        """Note that nothing is read."""
        self.reads = False

    def resume_reading(self) -> None:
        """Note that more is read."""
        self.reads = True


@pytest.fixture(name="service")
def fixture_service(trained: Path, tmp_path: Path) -> Iterator[Service]:
    """Start the application with its log in a file."""
    with (tmp_path / "log").open("w", encoding="utf-8") as log, redirect_stdout(log):
        with closing(Service(model.load(trained))) as service:
            yield service


def connected(service: Service, transport: Transport) -> FastConnection:
    """Return a connection over a transport; there has to be an event loop."""
    config = uvicorn.Config(cast(Any, service), http=FastConnection, lifespan="off", ws="none", log_config=None)
    config.load()
    connection = FastConnection(config, ServerState(), {}, asyncio.get_running_loop())
    connection.connection_made(cast(asyncio.Transport, transport))
    return connection


def driven(service: Service, steps: Callable[[FastConnection, Transport], Awaitable[None]]) -> bytes:
    """Run steps on a connection and return what it has sent."""
    transport = Transport()

    async def run() -> None:
        await steps(connected(service, transport), transport)

    asyncio.run(run())
    return transport.sent


def test_no_request_is_answered_behind_the_last_response(service: Service) -> None:
    async def steps(connection: FastConnection, _: Transport) -> None:
        # HTTP/1.0 ends the connection, although the client wants to keep it.
        connection.data_received(b"GET /healthz HTTP/1.0\r\nconnection: keep-alive\r\n\r\n" + GET)
        await asyncio.sleep(0.1)

    sent = driven(service, steps)
    assert sent.count(b"HTTP/1.1 ") == sent.count(b"connection: close") == 1


def test_no_request_is_answered_behind_a_refusal(service: Service) -> None:
    async def steps(connection: FastConnection, _: Transport) -> None:
        # The rest waits for its turn.
        connection.data_received(b"GET /healthz HTTP/1.1\r\nhost: a\r\nx: ")
        connection.data_received(b"a" * 20_000 + b"\r\n\r\n" + GET)
        connection.give_way()
        await asyncio.sleep(0.1)

    sent = driven(service, steps)
    assert sent.startswith(b"HTTP/1.1 408 ")
    assert sent.count(b"HTTP/1.1 ") == 1


@pytest.mark.parametrize("turns", [0, 1, 2])
@pytest.mark.parametrize("data", [b"\r\n\r\n" * 15 + POST + b"xyz", POST, GET[:-2], b"\r\n" * 9_000 + POST + GET])
def test_a_lost_connection_holds_nothing(service: Service, data: bytes, turns: int) -> None:
    async def steps(connection: FastConnection, _: Transport) -> None:
        connection.data_received(data)
        for _turn in range(turns):
            await asyncio.sleep(0)
        connection.connection_lost(None)
        await asyncio.sleep(0.1)

    driven(service, steps)
    assert service.budget.held == 0


def test_unread_responses_and_large_heads_of_open_requests_are_held(service: Service) -> None:
    async def steps(connection: FastConnection, transport: Transport) -> None:
        assert transport.high == UNSENT_BYTES
        connection.pause_writing()
        transport.sent = b"x" * 50_000
        connection.advance()
        assert service.budget.held == 50_000
        transport.sent = b""
        connection.resume_writing()
        await asyncio.sleep(0)
        assert service.budget.held == 0
        connection.data_received(b"GET /healthz HTTP/1.1\r\nhost: a\r\nx: " + b"a" * 5_000)
        connection.data_received(b"a" * 5_000 + b"\r\n\r\n")
        assert service.budget.held >= 20_000
        await asyncio.sleep(0.1)
        assert service.budget.held == 0

    driven(service, steps)
    assert service.budget.held == 0


def test_a_connection_that_stops_ends_behind_its_response(service: Service) -> None:
    async def steps(connection: FastConnection, transport: Transport) -> None:
        connection.data_received(GET)
        connection.closing = True
        await asyncio.sleep(0.1)
        assert transport.closing

    assert driven(service, steps).startswith(b"HTTP/1.1 200 ")


def test_100_continue_is_only_for_http_1_1(service: Service) -> None:
    async def steps(connection: FastConnection, _: Transport) -> None:
        connection.data_received(
            b"POST /forecast HTTP/1.0\r\nhost: a\r\nexpect: 100-continue\r\ncontent-length: 9\r\n\r\n"
        )

    assert driven(service, steps) == b""


def test_large_requests_at_once_are_parsed_in_turns(service: Service) -> None:
    """Requests that fill the buffer of the first read wait, each four for one turn; a small request does not wait."""
    answered: list[int] = []

    async def run() -> None:
        transports = [Transport() for _ in range(41)]
        for transport in transports:
            connection = connected(service, transport)
            small = transport is transports[-1]
            data = GET[:-2] + (b"" if small else b"x:\r\n" * (FIRST_READ_BYTES // 4)) + b"\r\n"
            buffer = connection.get_buffer(-1)
            size = min(len(data), len(buffer))
            buffer[:size] = data[:size]
            connection.buffer_updated(size)
        for _ in range(20):
            answered.append(sum(transport.sent.startswith(b"HTTP/1.1 431 ") for transport in transports))
            if len(answered) == 5:
                assert transports[-1].sent.startswith(b"HTTP/1.1 200 ")
            await asyncio.sleep(0)

    asyncio.run(run())
    assert max(after - before for before, after in pairwise(answered)) == READERS_PER_TURN
    assert answered[-1] == 40


def test_what_follows_a_request_stays_unread_whoever_resumes_reading(service: Service) -> None:
    async def steps(connection: FastConnection, transport: Transport) -> None:
        connection.data_received(GET)
        for _ in range(3):
            connection.data_received(b"x" * FIRST_READ_BYTES)
            assert not transport.reads
            # uvicorn does so while an application waits for its client.
            connection.flow.resume_reading()

    driven(service, steps)


def test_the_kernel_keeps_few_bytes_for_a_connection() -> None:
    with listen("127.0.0.1", 0) as listener, socket.create_connection(listener.getsockname()):
        listener.settimeout(5)
        accepted, _ = listener.accept()
        with accepted:
            # Linux counts the buffers twice.
            assert accepted.getsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF) == 2 * UNREAD_BYTES
            assert accepted.getsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF) == 2 * UNACKNOWLEDGED_BYTES


def test_an_error_in_one_turn_stops_no_other() -> None:
    class Reader:
        """Counts its turns; the third reader fails in its first."""

        # pylint: disable=too-few-public-methods  # one event

        def __init__(self, number: int) -> None:
            self.number, self.turns = number, 0

        def take_turn(self) -> None:
            """Wait once more, or fail."""
            self.turns += 1
            if self.number == 2:
                raise ValueError(self.number)
            if self.turns == 1:
                turns.wait(self)

    turns, readers, errors = Turns(), [Reader(number) for number in range(10)], []

    async def run() -> None:
        asyncio.get_running_loop().set_exception_handler(lambda _, context: errors.append(context["exception"]))
        for reader in readers:
            turns.wait(reader)
        for _ in range(20):
            await asyncio.sleep(0)

    asyncio.run(run())
    assert [reader.turns for reader in readers] == [2, 2, 1, 2, 2, 2, 2, 2, 2, 2]
    assert [str(error) for error in errors] == ["2"]


def test_a_stopping_connection_reads_what_the_client_still_sends(service: Service) -> None:
    """A reset could overtake the response."""

    async def steps(connection: FastConnection, transport: Transport) -> None:
        connection.data_received(GET + GET)
        connection.shutdown()
        await asyncio.sleep(0.1)
        assert transport.sent.count(b"HTTP/1.1 ") == 1
        assert connection.lingering and transport.reads and not transport.closing

    driven(service, steps)


def test_chunks_of_many_connections_are_parsed_in_turns(service: Service) -> None:
    """Chunks of a byte, of which thousands fit in a read, wait for their turn."""

    async def run() -> None:
        connections = [connected(service, Transport()) for _ in range(20)]
        for connection in connections:
            connection.data_received(b"POST /forecast HTTP/1.1\r\nhost: a\r\ntransfer-encoding: chunked\r\n\r\n")
            connection.data_received(b"1\r\nx\r\n" * 10_000)
        parsed = []
        for _ in range(4):
            await asyncio.sleep(0)
            parsed.append(sum(connection.body_bytes for connection in connections))
        most = READERS_PER_TURN * (PIECES_PER_TURN * PIECE_BYTES // len(b"1\r\nx\r\n") + 1)
        assert max(after - before for before, after in pairwise([0, *parsed])) <= most
        assert parsed[-1]

    asyncio.run(run())
