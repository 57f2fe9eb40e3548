"""An HTTP/1.1 connection of uvicorn with limits: how many there are, how long they take, how large a head may be.

uvicorn's parser frames each request; no byte is edited before it.
"""

from __future__ import annotations

import asyncio
from typing import Any, Protocol, cast

import httptools
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

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
        # Per connection, in the loop's time.
        self.idle_since: float | None = None
        self.closing = False
        # Sent after the responses to earlier requests; nothing is read any more.
        self.refusal: Problem | None = None
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
        # uvicorn keeps the timer, and with it the connection's memory, if the client resets the connection.
        self._unset_keepalive_if_required()

    def data_received(self, data: bytes) -> None:
        if self.refusal or self.transport.is_closing():
            return
        self.idle_since, since = None, self.head_since
        self.received = self.head_bytes + len(data)
        self._unset_keepalive_if_required()
        self._parse(data)
        if self.head_since is not None and self.head_since is since:
            self.head_bytes += len(data)
            if self.head_bytes > HEADER_BYTES:
                self._refuse_head()
        elif self.head_since is None and self.request_since is None:
            self.idle_since = self.loop.time()

    def _parse(self, data: bytes) -> None:
        try:
            self.parser.feed_data(data)
        except httptools.HttpParserUpgrade as upgrade:
            self._decline_upgrade(data[upgrade.args[0] :])
        except httptools.HttpParserError:
            self.refuse(Problem(400, "http", "Invalid HTTP request received."))

    def _decline_upgrade(self, rest: bytes) -> None:
        """Go on with HTTP/1.1, as RFC 9110, 7.8 allows: a new parser gets the same request without the offer."""
        method, url, headers = self.parser.get_method(), self.url, self.headers
        if method == b"CONNECT":
            self.refuse(Problem(405, "method", "CONNECT is not supported"))
            return
        lines = [b"%b: %b\r\n" % header for header in headers if header[0] != b"upgrade"]
        self.upgrade_offered = False
        self.parser = httptools.HttpRequestParser(self)
        self.parser.feed_data(b"%b %b HTTP/1.1\r\n%b\r\n" % (method, url, b"".join(lines)))
        self._parse(rest)

    def _refuse_head(self) -> None:
        self.refuse(Problem(431, "headers", f"the headers are larger than {HEADER_BYTES} bytes"))

    def eof_received(self) -> bool:  # type: ignore[override]
        # Without True the transport closes before complete requests are answered.
        complete = self.cycle is not None and not self.cycle.response_complete and not self.cycle.more_body
        if complete:
            self.cycle.keep_alive = False
        return complete

    def on_message_begin(self) -> None:
        super().on_message_begin()
        self.head_since, self.head_begun, self.head_bytes = self.loop.time(), True, 0

    def on_headers_complete(self) -> None:
        if self.refusal or self.transport.is_closing():
            return
        if self.parser.should_upgrade():
            self.upgrade_offered = True
            return
        self.request_since, self.head_since, self.head_begun = self.head_since, None, False
        # A head is counted only if as much has arrived at all.
        if self.received > HEADER_BYTES and self._head_size() > HEADER_BYTES:
            self._refuse_head()
            return
        self.start_request()

    def start_request(self) -> None:
        """Start to answer the request whose head is complete."""
        super().on_headers_complete()
        if self.closing:
            self.cycle.keep_alive = False

    def _head_size(self) -> int:
        # Each line has a colon, a space and its end besides.
        return len(self.url) + sum(len(name) + len(value) + 4 for name, value in self.headers)

    def on_body(self, body: bytes) -> None:
        if not (self.refusal or self.transport.is_closing()):
            super().on_body(body)

    def on_message_complete(self) -> None:
        if not (self.refusal or self.upgrade_offered or self.transport.is_closing()):
            super().on_message_complete()

    def on_response_complete(self) -> None:
        if self.refusal and not self.pipeline:
            self._send_refusal(self.refusal)
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

    def refuse(self, problem: Problem, at_once: bool = False) -> None:
        """Close the connection with a problem, behind the responses to earlier requests unless `at_once`."""
        if self.refusal or self.transport.is_closing():
            return
        self.service.refused(problem)
        responding = self.cycle is not None and not self.cycle.response_complete
        if responding and self.cycle.more_body:
            # The request in question is not answered; if it waits behind another one, that one is.
            responding = bool(self.pipeline)
            if self.pipeline:
                self.pipeline.popleft()
        if responding and not at_once:
            self.refusal = problem
        else:
            self._send_refusal(problem)

    def _send_refusal(self, problem: Problem) -> None:
        if not self.transport.is_closing():
            self.transport.write(problem.raw())
            self.transport.close()

    def sweep(self, now: float) -> None:
        """Close the connection if it has taken too long."""
        if self.head_since is not None and now - self.head_since > HEADER_SECONDS:
            self.refuse(Problem(408, "slow", f"no complete request within {HEADER_SECONDS:g} s"))
        elif self.request_since is not None and now - self.request_since > REQUEST_SECONDS:
            if self.cycle is not None and not self.cycle.response_complete:
                if self.cycle.response_started:
                    self.transport.abort()
                    return
                self.cycle.scope["state"]["timed_out"] = True
            problem = Problem(408, "slow", f"the request was not complete within {REQUEST_SECONDS:g} s")
            self.refuse(problem, at_once=True)
        elif self.idle_since is not None and now - self.idle_since > KEEP_ALIVE_SECONDS:
            self.transport.close()

    def shutdown(self) -> None:
        """Close now, or after the request that has begun to arrive."""
        self.closing = True
        if self.is_idle():
            super().shutdown()

    def is_idle(self) -> bool:
        """Return True unless the head of a request has begun to arrive."""
        return not self.head_begun
