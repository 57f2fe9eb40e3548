"""An HTTP/1.1 connection of uvicorn with limits: of time, of memory, of what one client may ask for at once.

A connection has one request at a time: what arrives behind it is not parsed before its response has been written, and
not read either once a piece of it waits. uvicorn's parser frames each request; no byte is changed before.
"""

from __future__ import annotations

import asyncio
from typing import Any, Protocol, cast

import httptools
from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol

from raincast.serving.forecaster import Response
from raincast.serving.framing import (
    FIELDS,
    HEADER_BYTES,
    MAX_BODY,
    PIECE_BYTES,
    end_of_piece,
    refusal,
    too_large,
    too_many_fields,
)
from raincast.serving.limits import Budget, Turns
from raincast.serving.problems import Problem

HEADER_SECONDS = 10.0
REQUEST_SECONDS = 30.0
# Exceeds the usual 60 s idle timeout of proxies, so that the proxy closes first.
KEEP_ALIVE_SECONDS = 75
# What a client has sent behind the last response is read and thrown away, or a reset could overtake the response; for
# these seconds, fewer if the service stops.
LINGER_SECONDS, STOPPING_LINGER_SECONDS = 30.0, 2.0
LINGER_BYTES = 100_000_000
# Requests of which no more waits may use all of the budget.
SMALL_BODY = 16_384
# A larger head is counted in the budget until the response.
SMALL_HEAD = 4_096
# Unsent bytes from which a client is not read from, and from which they are counted in the budget.
UNSENT_BYTES = 8_192
# Pieces that are parsed in one turn.
PIECES_PER_TURN = 16
# A request that is not complete in a read of this size waits for its turn: thousands may arrive at once. So does more
# than a piece of a chunked body, whose chunks may be as small as a byte. A body of a known length is read in larger
# parts, and other connections have their turn after each of BODY_TURN_BYTES.
FIRST_READ_BYTES = 8_192
BODY_READ_BYTES, BODY_TURN_BYTES = 262_144, 65_536
# All connections read into the same memory, one after the other.
_BODY_READ = memoryview(bytearray(BODY_READ_BYTES))
_FIRST_READ = _BODY_READ[:FIRST_READ_BYTES]
# At the limit of connections those are closed that have waited for a request longest. If none waits, the search is
# repeated only after this time, since it takes milliseconds.
SEARCH_SECONDS = 0.1


class Service(Protocol):
    """The part of the application that connections call besides ASGI."""

    budget: Budget
    turns: Turns

    def refused(self, problem: Problem, method: str, path: str, headers: dict[bytes, bytes]) -> bytes:
        """Count and log a request that is refused, and return the response. Method and path are "-" if unknown."""

    def abandoned(self, method: str, path: str, headers: dict[bytes, bytes]) -> None:
        """Count and log a request whose client has gone before its end."""


def response_bytes(response: Response, request_id: str, *headers: tuple[bytes, bytes]) -> bytes:
    """Return a complete response as it is sent, with further headers."""
    return b"%bcontent-type: %b\r\ncontent-length: %d\r\nx-request-id: %b\r\n%b\r\n%b" % (
        STATUS_LINE[response.status],
        response.content_type.encode(),
        len(response.body),
        request_id.encode(),
        b"".join([b"%b: %b\r\n" % header for header in (*response.headers, *headers)]),
        response.body,
    )


class Connection(HttpToolsProtocol):
    """An HTTP/1.1 connection, refused above `limit` connections and closed if it is too slow or asks for too much.

    A request has to begin HEADER_SECONDS after the connection was made, to have all its headers as soon after it began,
    and its body REQUEST_SECONDS after it began; `sweep` enforces these times.
    """

    # pylint: disable=too-many-instance-attributes  # uvicorn's own, and the state of one request
    # pylint: disable=too-many-public-methods  # uvicorn's own are most of them

    limit = 10_000
    searched_at = 0.0

    def __init__(self, *arguments: Any, **settings: Any) -> None:
        super().__init__(*arguments, **settings)
        self.service = cast(Service, self.config.app)
        # Received bytes, of which those before `position` were parsed, and the last three of them, if in a head.
        self.received, self.position, self.before = b"", 0, b""
        self.advancing = self.waits_for_turn = False
        # The time at which the request began, or the wait for it, and the time at which it is late.
        self.began = self.deadline = 0.0
        # The request: it has begun and has no response; its head is complete, and its body is not; it is complete.
        self.begun = self.reads_body = self.open = False
        # Its headers once its head is complete, as a list and by name; before, they are in uvicorn's `headers`.
        self.url, self.headers = b"", []
        self.head: list[tuple[bytes, bytes]] = []
        self.fields: dict[bytes, bytes] = {}
        self.head_bytes = self.kept_head_bytes = self.body_bytes = self.body_left = 0
        self.chunked = False
        self.body: bytes | bytearray = b""
        # The parser reads no body after an offer to upgrade; the request is parsed again without the offer.
        self.upgrade_offered = False
        # The refusal that is due behind the response; the last response has been written, and the client may send more.
        self.refusal: Problem | None = None
        self.lingering = False
        # The response closes the connection; the service stops; the client has stopped sending; it has a response.
        self.last = self.closing = self.ended = self.answered = False
        self.held = self.discarded = 0
        self.unsent, self.sent_at = 0, 0.0

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        self.began = self.loop.time()
        self.deadline = self.began + HEADER_SECONDS
        full = len(self.connections) >= self.limit and not self._close_idle()
        super().connection_made(transport)
        transport.set_write_buffer_limits(high=UNSENT_BYTES)
        if full:
            self._refuse_at_once(Problem(503, "busy", f"{self.limit} connections are open, which is the limit"))

    def _close_idle(self) -> bool:
        """Close the connections that have waited longest for a request; return False if there are none."""
        if self.began - Connection.searched_at < SEARCH_SECONDS:
            return False
        waiting = [other for other in map(_connection, self.connections) if other.waits_for_head()]
        for other in sorted(waiting, key=lambda other: other.began)[: 1 + self.limit // 100]:
            other.give_way()
        if not waiting:
            Connection.searched_at = self.began
        return bool(waiting)

    def waits_for_head(self) -> bool:
        """Return True if the connection waits for its client: for a request, the rest of its head, or an end."""
        has_request = self.open or self.reads_body or (self.received and not self.flow.write_paused)
        return not (has_request or self.transport.is_closing())

    def give_way(self) -> None:
        """Close the connection for another, with a problem if a request has begun."""
        if self.flow.write_paused:
            self.transport.abort()
        elif self.begun and not self.lingering:
            self._refuse_at_once(Problem(408, "slow", "the request is too slow for a service with so many connections"))
        else:
            self.transport.close()

    def connection_lost(self, exc: Exception | None) -> None:
        if self.reads_body:
            self.service.abandoned(*self._request())
        super().connection_lost(exc)
        self.received, self.position, self.body = b"", 0, b""
        self.open = self.reads_body = False
        self.head_bytes = self.kept_head_bytes = self.body_bytes = self.body_left = 0
        # Without a reference to its request, a connection is freed at once.
        self.cycle = None  # type: ignore[assignment]
        self._hold(0)

    def get_buffer(self, _: int) -> memoryview:
        """Return the memory for the next read; asyncio.BufferedProtocol has the contract."""
        return _BODY_READ if self.reads_body or self.lingering else _FIRST_READ

    def buffer_updated(self, size: int) -> None:
        """Take the bytes that have been read into the buffer."""
        if self.lingering:
            self._discard(size)
        else:
            self.data_received(bytes(_BODY_READ[:size]))

    def data_received(self, data: bytes) -> None:
        size = len(data)
        if self.lingering or self.refusal:
            self._discard(size)
            return
        if self.transport.is_closing():
            return
        self.received = self.received[self.position :] + data if self.received else data
        self.position = 0
        if self.body_left:
            self.advance()
            if size >= BODY_TURN_BYTES:
                self._wait_for_turn()
        elif size < (PIECE_BYTES if self.reads_body else FIRST_READ_BYTES):
            self.advance()
        else:
            self._account()
            self._wait_for_turn()

    def _wait_for_turn(self) -> None:
        """Go on when other connections have had their turn."""
        if not self.waits_for_turn:
            self.waits_for_turn = True
            self.service.turns.wait(self)
        # uvicorn may have read on meanwhile.
        self._choose_reading()

    def _discard(self, size: int) -> None:
        self.discarded += size
        if self.discarded > LINGER_BYTES:
            self.transport.abort()
        if size >= BODY_TURN_BYTES:
            self._wait_for_turn()

    def take_turn(self) -> None:
        """Parse what was read and read again."""
        self.waits_for_turn = False
        if (self.received or self.ended) and not self.advancing:
            self.advance()
        self._choose_reading()

    def _choose_reading(self) -> None:
        """Read unless received bytes wait to be parsed, or other connections have to be read first."""
        if self.transport.is_closing() or self.ended:
            return
        if self.waits_for_turn or self.received:
            self.flow.pause_reading()
        else:
            self.flow.resume_reading()

    def advance(self) -> None:
        """Parse received bytes to the end of the next request, or as far as one turn goes."""
        self.advancing = False
        pieces = 0
        while self.position < len(self.received) and not self._is_waiting():
            if pieces == PIECES_PER_TURN:
                self._wait_for_turn()
                break
            pieces += 1
            self._parse_piece()
        if self.position == len(self.received) or self.transport.is_closing():
            self.received, self.position = b"", 0
            if (self.ended and not self.open) or (self.closing and self.is_idle() and not self.lingering):
                self.end()
        self._account()
        if self.received or self.flow.read_paused:
            self._choose_reading()

    def _is_waiting(self) -> bool:
        return self.open or self.lingering or self.flow.write_paused or self.transport.is_closing()

    def _advance_soon(self) -> None:
        """Call `advance` in the next turn of the event loop."""
        if not (self.advancing or self.waits_for_turn):
            self.advancing = True
            self.loop.call_soon(self.advance)

    def _parse_piece(self) -> None:
        data, start, before = self.received, self.position, self.before
        if self.body_left:
            end = min(len(data), start + self.body_left)
        else:
            end = end_of_piece(data, start, before, min(PIECE_BYTES, HEADER_BYTES - self.head_bytes))
            # A chunk of a body resets it, so that neither chunk extensions nor trailers are without a limit.
            self.head_bytes += end - start
        self.position = end
        try:
            self.parser.feed_data(data[start:end])
        except httptools.HttpParserUpgrade as upgrade:
            self.position = start + upgrade.args[0]
            self._decline_upgrade()
        except httptools.HttpParserError:
            self._refuse_syntax()
        if self.body_left or self.open:
            return
        self.before = (before + data[max(start, end - 3) : end])[-3:]
        if self.head_bytes >= HEADER_BYTES or len(self.headers) > FIELDS:
            self._refuse_head()

    def _refuse_head(self) -> None:
        if len(self.headers) > FIELDS:
            self.refuse(too_many_fields())
        else:
            self.refuse(Problem(431, "headers", f"the headers are larger than {HEADER_BYTES} bytes"))

    def _decline_upgrade(self) -> None:
        """Go on with HTTP/1.1, as RFC 9110, 7.8 allows: a new parser gets the same head without the offer."""
        self.upgrade_offered = False
        method, version = self.parser.get_method(), self.parser.get_http_version().encode()
        if method == b"CONNECT":
            self.refuse(Problem(501, "method", "CONNECT is not supported"))
            return
        lines = [b"%b: %b\r\n" % header for header in self.headers if header[0] != b"upgrade"]
        self.parser = httptools.HttpRequestParser(self)
        try:
            self.parser.feed_data(b"%b %b HTTP/%b\r\n%b\r\n" % (method, self.url, version, b"".join(lines)))
        except httptools.HttpParserError:
            self._refuse_syntax()

    def _refuse_syntax(self) -> None:
        if len(self.headers) > FIELDS:
            # The error may have arrived with the field that is too many, or behind it.
            self._refuse_head()
        self.refuse(Problem(400, "http", "Invalid HTTP request received."))

    def eof_received(self) -> bool:  # type: ignore[override]
        """Keep a connection open whose client has stopped sending, if complete requests are not answered yet."""
        self.ended = True
        return not self.lingering and (self.open or bool(self.received))

    def on_message_begin(self) -> None:
        # uvicorn would make the scope, which most requests do not need.
        self.url, self.expect_100_continue, self.headers, self.head = b"", False, [], []
        self.began, self.begun = self.loop.time(), True
        self.deadline = self.began + HEADER_SECONDS

    def on_headers_complete(self) -> None:
        if self.lingering:
            return
        if self.parser.should_upgrade():
            self.upgrade_offered = True
            return
        self.kept_head_bytes = self.head_bytes if self.head_bytes > SMALL_HEAD else 0
        self.reads_body, self.head_bytes, self.deadline = True, 0, self.began + REQUEST_SECONDS
        self.fields = dict(self.headers)
        problem = refusal(self.parser.get_http_version(), self.headers, self.fields) or self._expect_body()
        # Trailers are not among them.
        self.head, self.headers = self.headers, []
        if problem:
            self.refuse(problem)

    def _expect_body(self) -> Problem | None:
        """Prepare for the body; return the reason to refuse it, if there is one."""
        self.chunked = b"transfer-encoding" in self.fields
        self.body_left = int(self.fields.get(b"content-length", 0))
        if self.body_left > MAX_BODY:
            return too_large()
        if self.body_left > SMALL_BODY and not self._may_hold(self.body_left, self.body_left):
            return _too_much()
        if self.expect_100_continue and (self.body_left or self.chunked) and self.parser.get_http_version() == "1.1":
            self.transport.write(b"HTTP/1.1 100 Continue\r\n\r\n")
        return None

    def on_body(self, body: bytes) -> None:
        if self.lingering:
            return
        if self.body:
            # Not a list: pieces may be as small as a byte.
            self.body = self.body if isinstance(self.body, bytearray) else bytearray(self.body)
            self.body += body
        else:
            self.body = body
        self.body_bytes += len(body)
        if not self.chunked:
            self.body_left -= len(body)
            return
        self.head_bytes = 0
        if self.body_bytes > MAX_BODY:
            self.refuse(too_large())

    def on_message_complete(self) -> None:
        if self.upgrade_offered or self.lingering:
            return
        body = bytes(self.body)
        self.open, self.reads_body, self.body = True, False, b""
        self.head_bytes, self.before = 0, b""
        if self.body_bytes <= SMALL_BODY:
            self.body_bytes = 0
        self.last = self.closing or not self.parser.should_keep_alive()
        self.dispatch(body)

    def dispatch(self, body: bytes) -> None:
        """Start to answer a complete request."""
        url = self.url
        # Makes the scope, without an expectation, which has been answered with 100 by now.
        super().on_message_begin()
        self.url, self.scope["headers"] = url, self.head
        self.scope["state"]["deadline"] = max(self.deadline, self.loop.time() + HEADER_SECONDS / 2)
        super().on_headers_complete()
        if self.last:
            self.cycle.keep_alive = False
        self.cycle.transport = cast(asyncio.Transport, _ResponseTransport(self))
        self.cycle.body, self.cycle.more_body = cast(bytearray, body), False
        self.cycle.message_event.set()

    def on_response_complete(self) -> None:
        self.request_ended()

    def request_ended(self) -> None:
        """Go on with the next request."""
        self.open, self.begun, self.answered = False, False, True
        self.kept_head_bytes = self.body_bytes = 0
        # An idle connection keeps nothing of its last request.
        self.cycle = None  # type: ignore[assignment]
        self.scope, self.head, self.fields = {}, [], {}  # type: ignore[typeddict-item]
        self.began = self.loop.time()
        if self.lingering:
            return
        self.deadline = self.began + KEEP_ALIVE_SECONDS
        if self.refusal:
            self.refuse(self.refusal)
        elif self.received or self.ended:
            self._advance_soon()
        elif self.closing:
            self.end()
        elif self.held or self.flow.write_paused:
            self._account()

    def pause_writing(self) -> None:
        super().pause_writing()
        self.unsent, self.sent_at = self.transport.get_write_buffer_size(), self.loop.time()

    def resume_writing(self) -> None:
        super().resume_writing()
        if not self.transport.is_closing():
            self._advance_soon()

    def _account(self) -> None:
        """Hold the bytes of the connection in the budget; refuse the request if the budget does not allow it."""
        # A head in Python's objects takes about twice its bytes.
        body = self.body_bytes + self.body_left
        size = len(self.received) + 2 * (self.head_bytes + self.kept_head_bytes) + body
        if size > self.held and not self._may_hold(size, len(self.received) + body):
            if not self.open:
                self.refuse(_too_much())
                return
            if self.received:
                self.refusal, self.received, self.position = _too_much(), b"", 0
                size = self.body_bytes + 2 * self.kept_head_bytes
        if self.flow.write_paused:
            size += self.transport.get_write_buffer_size()
        if size != self.held:
            self._hold(size)

    def _may_hold(self, size: int, body: int) -> bool:
        return self.service.budget.allows(size - self.held, body > SMALL_BODY)

    def _hold(self, size: int) -> None:
        self.service.budget.held += size - self.held
        self.held = size

    def refuse(self, problem: Problem) -> None:
        """Send a problem in place of the response that is due, and close the connection when the client has read it."""
        if self.lingering or self.transport.is_closing():
            return
        self._write_refusal(problem)
        self._linger()

    def _linger(self) -> None:
        """Read what the client still sends and throw it away, until it stops sending; nothing more is sent to it."""
        self.lingering = True
        self.received, self.position, self.body = b"", 0, b""
        self.headers, self.head, self.scope = [], [], {}  # type: ignore[typeddict-item]
        self.kept_head_bytes = self.body_bytes = self.body_left = self.head_bytes = 0
        self.open = self.reads_body = False
        self.deadline = self.loop.time() + (STOPPING_LINGER_SECONDS if self.closing else LINGER_SECONDS)
        self._hold(0)
        if self.ended:
            self.transport.close()
        else:
            self.transport.write_eof()
            self._choose_reading()

    def _refuse_at_once(self, problem: Problem) -> None:
        self._write_refusal(problem)
        self.transport.close()

    def _write_refusal(self, problem: Problem) -> None:
        self.transport.write(self.service.refused(problem, *self._request()))

    def _request(self) -> tuple[str, str, dict[bytes, bytes]]:
        """Return method, path and headers of the request, as far as they are known."""
        if not (self.begun and self.url):
            return "-", "-", {}
        path = self.url.partition(b"?")[0].decode("latin-1")
        return self.parser.get_method().decode(), path, dict(self.head or self.headers)

    def end(self) -> None:
        """Close the connection when the response has been written; linger if the client may have sent more."""
        if self.lingering or self.ended or not (self.received or self.flow.read_paused):
            self.transport.close()
        elif not self.transport.is_closing():
            self._linger()

    def sweep(self, now: float) -> None:
        """Close the connection if it has taken too long."""
        unsent = self.transport.get_write_buffer_size()
        if unsent:
            # A slow client still reads.
            if not self.unsent or unsent < self.unsent:
                self.sent_at = now
            elif now - self.sent_at > REQUEST_SECONDS:
                self.transport.abort()
            self.unsent = unsent
            return
        self.unsent = 0
        if self.held and not self.open:
            self._account()
        if now > self.deadline:
            self._time_out()

    def _time_out(self) -> None:
        if self.open:
            # The application answers earlier, with a problem if need be.
            if self.deadline + HEADER_SECONDS < self.loop.time():
                self.transport.abort()
        elif self.lingering:
            self.transport.abort()
        elif self.reads_body:
            self.refuse(Problem(408, "slow", f"the request was not complete within {REQUEST_SECONDS:g} s"))
        elif self.begun or not self.answered:
            self.refuse(Problem(408, "slow", f"no complete request within {HEADER_SECONDS:g} s"))
        else:
            self.end()

    def shutdown(self) -> None:
        """Close now, or after the request that has begun to arrive."""
        self.closing = True
        if self.lingering:
            self.deadline = min(self.deadline, self.loop.time() + STOPPING_LINGER_SECONDS)
        elif self.is_idle():
            self.end()
        elif self.open and self.cycle is not None and not self.cycle.response_started:
            self.cycle.keep_alive = False

    def is_idle(self) -> bool:
        """Return True unless a request has begun to arrive or is being answered."""
        return not (self.begun or self.received)


class _ResponseTransport:
    """The transport that uvicorn writes a response to; closing it may have to linger."""

    # pylint: disable=too-few-public-methods  # three functions of others

    def __init__(self, connection: Connection) -> None:
        self.write, self.close = connection.transport.write, connection.end
        self.is_closing = connection.transport.is_closing


def _connection(protocol: Any) -> Connection:
    return cast(Connection, protocol)


def _too_much() -> Problem:
    return Problem(503, "busy", "the service holds as many bytes of requests as it may; try again")
