"""An HTTP/1.1 connection of uvicorn with limits: how many there are, how long they take, how large a head may be.

uvicorn's parser frames each request; no byte is edited before the parser reads it.
"""

from __future__ import annotations

import asyncio
from typing import Any, Protocol, cast

import httptools
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol, RequestResponseCycle

from raincast.serving.problems import Problem

HEADER_SECONDS = 10.0
REQUEST_SECONDS = 30.0
# Exceeds the usual 60 s idle timeout of proxies, so that the proxy closes first.
KEEP_ALIVE_SECONDS = 75
HEADER_BYTES = 65_536


class Service(Protocol):
    """The part of the application that connections call besides ASGI."""

    # pylint: disable=too-few-public-methods  # one event

    def refused(self, problem: Problem) -> None:
        """Count a connection that is closed with a problem."""


class Connection(HttpToolsProtocol):
    """An HTTP/1.1 connection, refused above `limit` connections and closed if it is too slow or its head too large.

    A request has to begin HEADER_SECONDS after the connection was made, to have all its headers as soon after it began,
    and to be answered after REQUEST_SECONDS; `sweep` enforces these times.
    """

    # pylint: disable=too-many-instance-attributes  # uvicorn's own, and the times

    limit = 10_000

    def __init__(self, *arguments: Any, **settings: Any) -> None:
        super().__init__(*arguments, **settings)
        self.service = cast(Service, self.config.app)
        # Per connection, in the loop's time. From `ending_since` on nothing is read; the connection is closed after the
        # pending responses and the refusal, if there is one.
        self.idle_since: float | None = None
        self.ending_since: float | None = None
        self.refusal: Problem | None = None
        self.unsent = 0
        self.closing = False
        # The request whose response is due next; uvicorn's `cycle` is the one that was received last.
        self.responding: RequestResponseCycle | None = None
        # Per request: when its head, or the wait for it, and the request itself began; the size of its head so far.
        self.head_since: float | None = None
        self.request_since: float | None = None
        self.head_begun = False
        self.head_bytes = 0
        self.received = 0
        # The parser reads no body after an offer to upgrade; the request is parsed again without the offer.
        self.upgrade_offered = False

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        self.head_since = self.loop.time()
        if len(self.connections) >= self.limit:
            self.transport = transport
            self.refuse(Problem(503, "busy", f"{self.limit} connections are open, which is the limit"))
            return
        super().connection_made(transport)

    def connection_lost(self, exc: Exception | None) -> None:
        super().connection_lost(exc)
        # uvicorn tells only the request that was received last.
        self._disconnect()
        # Requests that were not started refer to the connection; without references to them it is freed at once.
        self.cycle = self.responding = None  # type: ignore[assignment]
        self.pipeline.clear()
        # uvicorn keeps the timer, and with it the connection's memory, if the client resets the connection.
        self._unset_keepalive_if_required()

    def _disconnect(self) -> None:
        """Tell the application that the response in progress is not sent any more."""
        if self.responding is not None and not self.responding.response_complete:
            self.responding.disconnected = True
            self.responding.message_event.set()

    def data_received(self, data: bytes) -> None:
        if self._is_ending():
            return
        self.idle_since, since = None, self.head_since
        self.received = len(data) + (self.received if self.head_begun else 0)
        self._unset_keepalive_if_required()
        self._parse(data)
        if self.head_since is not None and self.head_since is since:
            self.head_bytes += len(data)
            if self.head_bytes > HEADER_BYTES:
                self._refuse_head()
        elif self.head_since is None and self.request_since is None:
            self.idle_since = self.loop.time()

    def _is_ending(self) -> bool:
        return self.ending_since is not None or self.transport.is_closing()

    def _parse(self, data: bytes | memoryview) -> None:
        while True:
            try:
                self.parser.feed_data(data)
                return
            except httptools.HttpParserUpgrade as upgrade:
                data = memoryview(data)[upgrade.args[0] :]
            except httptools.HttpParserError:
                self._refuse_syntax()
                return
            self._decline_upgrade()
            if self._is_ending():
                return

    def _decline_upgrade(self) -> None:
        """Go on with HTTP/1.1, as RFC 9110, 7.8 allows: a new parser gets the same head without the offer."""
        self.upgrade_offered = False
        method, version = self.parser.get_method(), self.parser.get_http_version().encode()
        if method == b"CONNECT":
            self.refuse(Problem(501, "method", "CONNECT is not supported"))
            return
        lines = [b"%b: %b\r\n" % header for header in self.headers if header[0] != b"upgrade"]
        self.parser = httptools.HttpRequestParser(self)
        # As uvicorn sets it up.
        self.parser.set_dangerous_leniencies(lenient_data_after_close=True)
        try:
            self.parser.feed_data(b"%b %b HTTP/%b\r\n%b\r\n" % (method, self.url, version, b"".join(lines)))
        except httptools.HttpParserError:
            self._refuse_syntax()

    def _refuse_syntax(self) -> None:
        self.refuse(Problem(400, "http", "Invalid HTTP request received."))

    def _refuse_head(self) -> None:
        self.refuse(Problem(431, "headers", f"the headers are larger than {HEADER_BYTES} bytes"))

    def eof_received(self) -> bool:  # type: ignore[override]
        """Keep a connection open whose client has stopped sending, if complete requests are not answered yet."""
        if self.ending_since is None and self._drop_incomplete_request():
            self.ending_since = self.loop.time()
        return self.ending_since is not None

    def on_message_begin(self) -> None:
        super().on_message_begin()
        self.head_since, self.head_begun, self.head_bytes = self.loop.time(), True, 0

    def on_headers_complete(self) -> None:
        if self._is_ending():
            return
        if self.parser.should_upgrade():
            self.upgrade_offered = True
            return
        self.request_since, self.head_since, self.head_begun = self.head_since, None, False
        # A head is measured only if as much has arrived since it began, or in the same piece.
        if self.received > HEADER_BYTES and self._head_size() > HEADER_BYTES:
            self._refuse_head()
            return
        self.start_request()

    def start_request(self) -> None:
        """Start to answer the request whose head is complete."""
        super().on_headers_complete()
        # The scope has the headers; trailers are not among them.
        self.headers = []
        if self.closing:
            self.cycle.keep_alive = False

    def _start_asgi_task(self, cycle: RequestResponseCycle, app: Any) -> None:
        self.responding = cycle
        super()._start_asgi_task(cycle, app)

    def _head_size(self) -> int:
        # Each line has a colon, a space and its end besides.
        return len(self.url) + sum(len(name) + len(value) + 4 for name, value in self.headers)

    def on_body(self, body: bytes) -> None:
        if not self._is_ending():
            super().on_body(body)

    def on_message_complete(self) -> None:
        if not (self.upgrade_offered or self._is_ending()):
            super().on_message_complete()

    def on_response_complete(self) -> None:
        if self.transport.is_closing() or (self.ending_since is not None and not self.pipeline):
            self.end()
        # Another request may be waiting behind it.
        if self.cycle.response_complete:
            self.request_ended()
        super().on_response_complete()

    def request_ended(self) -> None:
        """Note that no request is being received or answered, but perhaps the head of the next one."""
        self.request_since = None
        if self.head_since is None:
            self.idle_since = self.loop.time()

    def send_400_response(self, msg: str) -> None:
        self.refuse(Problem(400, "http", msg))

    def refuse(self, problem: Problem) -> None:
        """Close the connection with a problem, behind the responses to earlier requests."""
        if self._is_ending():
            return
        self.service.refused(problem)
        self.refusal, self.ending_since = problem, self.loop.time()
        if not self._drop_incomplete_request():
            self.end()

    def _drop_incomplete_request(self) -> bool:
        """Forget a request that has not arrived completely; return True if responses to earlier ones are pending."""
        if self.responding is None or self.responding.response_complete:
            return False
        if not self.cycle.more_body:
            return True
        if self.pipeline:
            self.pipeline.popleft()
            return True
        # It is being answered while it arrives.
        return self.responding.response_started

    def end(self) -> None:
        """Send the refusal, if there is one, and close the connection."""
        if self.ending_since is None:
            self.ending_since = self.loop.time()
        self._disconnect()
        if not self.transport.is_closing():
            if self.refusal:
                self.transport.write(self.refusal.raw())
            self.transport.close()

    def sweep(self, now: float) -> None:
        """Close the connection if it has taken too long."""
        if self.ending_since is not None:
            unsent, self.unsent = self.unsent, self.transport.get_write_buffer_size()
            if self.unsent < unsent:
                # A slow client still reads.
                self.ending_since = now
            elif now - self.ending_since > REQUEST_SECONDS:
                self.transport.abort()
        elif self.head_since is not None and now - self.head_since > HEADER_SECONDS:
            self.refuse(Problem(408, "slow", f"no complete request within {HEADER_SECONDS:g} s"))
        elif self.request_since is not None and now - self.request_since > REQUEST_SECONDS:
            self._time_out()
        elif self.idle_since is not None and now - self.idle_since > KEEP_ALIVE_SECONDS:
            self.end()

    def _time_out(self) -> None:
        """Close the connection with a problem in place of the response that is due, if that has not begun."""
        late = self.responding
        if late is not None and not late.response_complete:
            if late.response_started:
                self.transport.abort()
                return
            late.scope["state"]["timed_out"] = True
        problem = Problem(408, "slow", f"the request was not complete within {REQUEST_SECONDS:g} s")
        self.service.refused(problem)
        self.refusal = problem
        self.end()

    def shutdown(self) -> None:
        """Close now, or after the request that has begun to arrive."""
        self.closing = True
        if self.is_idle():
            super().shutdown()

    def is_idle(self) -> bool:
        """Return True unless the head of a request has begun to arrive."""
        return not self.head_begun
