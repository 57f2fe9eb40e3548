"""Connections and shutdown: uvicorn with a short way for small requests, limits for clients, and a drain.

The short way: a small POST of forecasts is answered within the call that received its last byte, without a task or
ASGI messages, in one write. Everything else, and whatever is unusual about such a request, goes uvicorn's way.
"""

from __future__ import annotations

import asyncio
import contextlib
import re
import resource
import signal
import socket
import time
from collections.abc import Callable, Generator
from types import FrameType
from typing import Any, Protocol, cast

import uvicorn
from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol

from raincast.answers import FORECAST, INVOCATIONS, Answer, Headers
from raincast.problems import Problem

HEADER_SECONDS = 10.0
REQUEST_SECONDS = 30.0
# Longer than the minute for which proxies keep idle connections: who closes last is never surprised.
KEEP_ALIVE_SECONDS = 75
HEADER_BYTES = 65_536
QUICK_BYTES = 16_384
BACKLOG = 2048
# Files that are not connections: logs, libraries, the listening socket.
OTHER_FILES = 64
_UPGRADE = re.compile(rb"\r\nupgrade:[^\r\n]*", re.IGNORECASE)
_QUICK_PATHS = {path.encode(): path for path in (FORECAST, INVOCATIONS)}
# Who sends one of these asks for something that the short way does not do.
_UNUSUAL = frozenset((b"expect", b"transfer-encoding", b"upgrade"))


class Service(Protocol):
    """What a Connection needs of the application besides ASGI."""

    draining: bool

    def quick(
        self, path: str, headers: Headers, body: bytes, start: float, respond: Callable[[Answer, str], None]
    ) -> None:
        """Answer a small POST of forecasts, at the latest with the next `flush`."""

    def flush(self) -> None:
        """Answer those that wait."""

    def refused(self, problem: Problem) -> None:
        """Count what a connection was closed for."""

    def drain(self) -> None:
        """Say that no new requests are wanted."""


class Connection(HttpToolsProtocol):
    """An HTTP/1.1 connection, refused where there are too many, closed where it is too slow or talks too much.

    `limit` is how many connections there may be. A request has to begin HEADER_SECONDS after the connection was made,
    to have all its headers as soon after it began, and to be answered after REQUEST_SECONDS; `sweep` looks after that.
    """

    # pylint: disable=too-many-instance-attributes  # uvicorn's own, and when what began
    # pylint: disable=attribute-defined-outside-init  # uvicorn's own, which begin with each message

    limit = 10_000

    def __init__(self, *arguments: Any, **settings: Any) -> None:
        super().__init__(*arguments, **settings)
        self.service = cast(Service, self.config.app)
        # When the connection, or the head of a request, or a request began, in the loop's time; None while none does.
        self.head_since: float | None = None
        self.request_since: float | None = None
        self.idle_since: float | None = None
        # Whether some of a head has come, and how much of it, in bytes, before the last piece.
        self.begun, self.head_bytes = False, 0
        # At least as much as a head that ends in the last piece.
        self.received = 0
        # Path, headers, body and beginning of a request that goes the short way.
        self.quick: tuple[str, Headers, list[bytes], float] | None = None
        # Whether this is the last request by its headers, and whether it has to be by our will.
        self.last, self.closing = False, False

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        self.head_since = self.loop.time()
        if len(self.connections) >= self.limit:
            self.transport = transport
            self.refuse(Problem(503, "busy", f"{self.limit} connections are open, which is the limit"))
            return
        super().connection_made(transport)

    def connection_lost(self, exc: Exception | None) -> None:
        self.quick = None
        super().connection_lost(exc)
        # uvicorn leaves the timer to run, and with it the connection's memory, where the client broke it off.
        self._unset_keepalive_if_required()

    def data_received(self, data: bytes) -> None:
        if self.transport.is_closing():
            return
        if b"pgrade:" in data and self.request_since is None:
            data = _without_upgrade(data)
        self.idle_since, since = None, self.head_since
        self.received = self.head_bytes + len(data)
        super().data_received(data)
        if self.head_since is not None and self.head_since is since:
            self.head_bytes += len(data)
            if self.head_bytes > HEADER_BYTES:
                self._refuse_head()
        elif self.head_since is None and self.request_since is None:
            self.idle_since = self.loop.time()

    def _refuse_head(self) -> None:
        self.refuse(Problem(431, "headers", f"the headers are larger than {HEADER_BYTES} bytes"))

    def eof_received(self) -> None:
        # uvloop closes the connection then.
        self._flush()

    def _flush(self) -> None:
        if self.quick:
            self.service.flush()

    def on_message_begin(self) -> None:
        # Where one request follows another that is not answered yet, their answers do too.
        self._flush()
        self.head_since, self.begun, self.head_bytes = self.loop.time(), True, 0
        self.url, self.headers = b"", []

    def on_headers_complete(self) -> None:
        self.request_since, self.head_since, self.begun = self.head_since, None, False
        if self.transport.is_closing():
            return
        # Only where more than that has come at all need it be counted.
        if self.received > HEADER_BYTES and self._head_size() > HEADER_BYTES:
            self._refuse_head()
            return
        path = _QUICK_PATHS.get(self.url)
        if path and self._goes_quick(headers := dict(self.headers)):
            self.quick = path, headers, [], time.perf_counter()
            return
        # Only now is the scope needed, which uvicorn makes as the message begins.
        url, headers_list = self.url, self.headers
        super().on_message_begin()
        self.url = url
        self.headers.extend(headers_list)
        self.expect_100_continue = any(n == b"expect" and v.lower() == b"100-continue" for n, v in headers_list)
        super().on_headers_complete()
        if self.closing:
            self.cycle.keep_alive = False

    def _head_size(self) -> int:
        # Each line has a colon, a space and its end besides.
        return len(self.url) + sum(len(name) + len(value) + 4 for name, value in self.headers)

    def _goes_quick(self, headers: Headers) -> bool:
        length = headers.get(b"content-length", b"")
        return (
            length.isdigit()
            and len(length) < 6
            and int(length) <= QUICK_BYTES
            and _UNUSUAL.isdisjoint(headers)
            and self.parser.get_method() == b"POST"
            and self.parser.get_http_version() == "1.1"
            and (self.cycle is None or self.cycle.response_complete)
            and not self.flow.write_paused
        )

    def on_body(self, body: bytes) -> None:
        if self.quick:
            self.quick[2].append(body)
        elif not self.transport.is_closing():
            super().on_body(body)

    def on_message_complete(self) -> None:
        if not self.quick:
            if not self.transport.is_closing():
                super().on_message_complete()
            return
        if self.transport.is_closing():
            self.quick = self.request_since = None
            return
        path, headers, parts, start = self.quick
        self.last = not self.parser.should_keep_alive()
        self.service.quick(path, headers, parts[0] if len(parts) == 1 else b"".join(parts), start, self._respond)

    def _respond(self, answer: Answer, request_id: str) -> None:
        """Write the response to a request that went the short way."""
        self.quick = self.request_since = None
        if self.transport.is_closing():
            return
        if self.head_since is None:
            self.idle_since = self.loop.time()
        body = answer.body
        more = [b"%b: %b\r\n" % header for header in (*self.server_state.default_headers, *answer.headers)]
        last = self.last or self.closing or self.service.draining
        if last:
            more.append(b"connection: close\r\n")
        self.transport.write(
            b"%bcontent-type: %b\r\ncontent-length: %d\r\nx-request-id: %b\r\n%b\r\n%b"
            % (
                STATUS_LINE[answer.status],
                answer.content_type.encode(),
                len(body),
                request_id.encode(),
                b"".join(more),
                body,
            )
        )
        if last:
            self.transport.close()

    def on_response_complete(self) -> None:
        # Another request may have begun behind this one.
        if self.quick is None and self.cycle.response_complete:
            self.request_since = None
        super().on_response_complete()

    def send_400_response(self, msg: str) -> None:
        self.refuse(Problem(400, "http", msg))

    def refuse(self, problem: Problem) -> None:
        """Answer without asking the application, and close."""
        self._flush()
        if not self.transport.is_closing():
            self.service.refused(problem)
            self.transport.write(problem.raw())
            self.transport.close()

    def sweep(self, now: float) -> None:
        """Close the connection where it has taken too long."""
        if self.head_since is not None and now - self.head_since > HEADER_SECONDS:
            self.refuse(Problem(408, "slow", f"no complete request within {HEADER_SECONDS:g} s"))
        elif self.request_since is not None and now - self.request_since > REQUEST_SECONDS:
            if self.quick is None and self.cycle.response_started:
                self.transport.abort()
                return
            if self.quick is None:
                self.cycle.scope["state"]["timed_out"] = True
            self.refuse(Problem(408, "slow", f"the request was not complete within {REQUEST_SECONDS:g} s"))
        elif self.idle_since is not None and now - self.idle_since > KEEP_ALIVE_SECONDS:
            self.transport.close()

    def shutdown(self) -> None:
        """Close now, or after the request that has begun to arrive."""
        self.closing = True
        if self.quick is None and not self.begun:
            super().shutdown()


class Server(uvicorn.Server):
    """uvicorn's server that drains when it is told to stop, and then ends as having done what it should.

    On SIGTERM the service is told at once; new connections are served for another `drain_seconds`; then what is in
    flight is finished. A second signal ends the waiting.
    """

    def __init__(self, config: uvicorn.Config, listener: socket.socket, drain_seconds: float) -> None:
        super().__init__(config)
        self.listener, self.drain_seconds = listener, drain_seconds
        self.stop_at: float | None = None
        self.swept_at = 0.0

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        if self.stop_at is None:
            cast(Service, self.config.app).drain()
            # Who presses Ctrl-C waits for no load balancer.
            self.stop_at = time.monotonic() + (self.drain_seconds if sig == signal.SIGTERM else 0.0)
        else:
            self.stop_at = 0.0
            self.force_exit = self.should_exit

    @contextlib.contextmanager
    def capture_signals(self) -> Generator[None, None, None]:
        """Without uvicorn's raising the signal again at the end: a drained server has not been killed."""
        before = {sig: signal.signal(sig, self.handle_exit) for sig in (signal.SIGINT, signal.SIGTERM)}
        try:
            yield
        finally:
            for sig, handler in before.items():
                signal.signal(sig, handler)

    async def on_tick(self, counter: int) -> bool:
        """Ten times a second: look after slow connections and the end of the drain."""
        self._sweep()
        if self.stop_at is not None and time.monotonic() >= self.stop_at:
            self.should_exit = True
        return await super().on_tick(counter)

    def _sweep(self) -> None:
        now = asyncio.get_running_loop().time()
        if now - self.swept_at > 1:
            self.swept_at = now
            for connection in list(self.server_state.connections):
                cast(Connection, connection).sweep(now)

    async def _sweep_on(self) -> None:
        while True:
            self._sweep()
            await asyncio.sleep(0.1)

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Take the connections that the kernel has accepted for us, then let none in, then finish what there is."""
        loop = asyncio.get_running_loop()

        def connection() -> asyncio.Protocol:
            return Connection(
                config=self.config, server_state=self.server_state, app_state=self.lifespan.state, _loop=loop
            )

        waiting = []
        with contextlib.suppress(BlockingIOError):
            while True:
                waiting.append(self.listener.accept()[0])
        for server in self.servers:
            server.close()
        self.listener.close()
        for accepted in waiting:
            accepted.setblocking(False)
            await loop.connect_accepted_socket(connection, accepted)
        # A request that is on its way on an idle connection still arrives.
        await asyncio.sleep(0.2)
        sweeping = asyncio.create_task(self._sweep_on())
        await super().shutdown()
        sweeping.cancel()


def listen(host: str, port: int) -> socket.socket:
    """A listening socket; OSError names the address where it is taken or not ours."""
    try:
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        listener = socket.socket(family, socket.SOCK_STREAM)
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind((host, port))
        listener.listen(BACKLOG)
        listener.setblocking(False)
    except (OSError, OverflowError, TypeError, UnicodeError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise OSError(f"cannot listen on {host}:{port}: {reason}") from error
    return listener


def run(service: Any, listener: socket.socket, drain_seconds: float) -> None:
    """Serve an ASGI application, which is a Service, on a listening socket until a signal ends it."""
    config = uvicorn.Config(
        service,
        http=Connection,
        loop="uvloop",
        lifespan="off",
        ws="none",
        access_log=False,
        log_config=None,
        log_level="error",
        timeout_keep_alive=KEEP_ALIVE_SECONDS,
        timeout_graceful_shutdown=int(REQUEST_SECONDS) + 5,
        server_header=False,
        backlog=BACKLOG,
    )
    Connection.limit = min(Connection.limit, _files() - OTHER_FILES)
    Server(config, listener, drain_seconds).run(sockets=[listener])


def _files() -> int:
    """How many files, and so connections, this process may have open: as many as it may allow itself."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = Connection.limit + OTHER_FILES
    if soft < wanted:
        soft = min(wanted, hard)
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    return soft


def _without_upgrade(data: bytes) -> bytes:
    """The beginning of a request without its offer of another protocol, after which the parser reads no body."""
    head, end, rest = data.partition(b"\r\n\r\n")
    return _UPGRADE.sub(b"", head) + end + rest
