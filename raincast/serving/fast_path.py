"""Fast path: small forecast requests are answered in the parser's callbacks, without a task and ASGI messages.

Single rows of requests that arrive together share one call of onnxruntime, and each response is one write. Unusual
requests take the ASGI path, with the same result. docs/decisions.md has the measured gain.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Protocol, cast

from uvicorn.protocols.http.httptools_impl import STATUS_LINE

from raincast.serving.forecaster import (
    FORECAST,
    INVOCATIONS,
    Forecaster,
    Headers,
    Response,
    SingleRow,
    failure_response,
)
from raincast.serving.http_protocol import Connection
from raincast.serving.problems import Problem

LARGEST_BODY = 16_384
PATHS = {path.encode(): path for path in (FORECAST, INVOCATIONS)}
# Requests with these headers take the ASGI path.
UNUSUAL_HEADERS = frozenset((b"expect", b"transfer-encoding", b"upgrade"))


@dataclass(slots=True)
class FastRequest:
    """A small POST of forecasts; `respond` writes its response, with the request's identifier."""

    path: str
    headers: Headers
    respond: Callable[[Response, str], None]
    body: list[bytes] = field(default_factory=list)
    start: float = field(default_factory=time.perf_counter)


@dataclass(slots=True)
class Waiting:
    """A request whose single row waits for its probability."""

    request: FastRequest
    single: SingleRow


class FastPath:
    """Forecasts small requests: tables at once, single rows in a batch before the event loop waits again.

    `finish` sends a response and must not raise.
    """

    def __init__(self, forecaster: Forecaster, finish: Callable[[FastRequest, Response], None]) -> None:
        self._forecaster, self._finish = forecaster, finish
        self._waiting: list[Waiting] = []

    def submit(self, request: FastRequest) -> None:
        """Respond to a complete request, at the latest in the next `flush`. Never raises."""
        body = request.body[0] if len(request.body) == 1 else b"".join(request.body)
        try:
            prepared = self._forecaster.prepare_regular(request.path, request.headers, body)
            if prepared is None:
                prepared = self._forecaster.respond(request.path, request.headers, body)
        except Exception as error:  # pylint: disable=broad-exception-caught  # every request gets a response
            self._finish(request, failure_response(request.path, error))
            return
        if isinstance(prepared, Response):
            self._finish(request, prepared)
            return
        if not self._waiting:
            asyncio.get_running_loop().call_soon(self.flush)
        self._waiting.append(Waiting(request, prepared))

    def flush(self) -> None:
        """Respond to all requests that wait. Never raises."""
        batch, self._waiting = self._waiting, []
        if not batch:
            return
        try:
            probabilities = self._forecaster.single_rows([waiting.single for waiting in batch])
        except Exception as error:  # pylint: disable=broad-exception-caught  # every request gets a response
            problem = Problem.internal(error)
            for waiting in batch:
                self._finish(waiting.request, failure_response(waiting.request.path, problem))
            return
        for waiting, probability in zip(batch, probabilities, strict=True):
            try:
                response = self._forecaster.complete(waiting.single, probability)
            except Exception as error:  # pylint: disable=broad-exception-caught  # every request gets a response
                response = failure_response(waiting.request.path, error)
            self._finish(waiting.request, response)


class Service(Protocol):
    """The part of the application that the fast path calls besides ASGI."""

    # pylint: disable=too-few-public-methods  # two attributes

    draining: bool
    fast_path: FastPath


class FastConnection(Connection):
    """A connection with limits whose small forecast requests take the fast path."""

    # pylint: disable=too-many-instance-attributes  # those of its bases

    def __init__(self, *arguments: Any, **settings: Any) -> None:
        super().__init__(*arguments, **settings)
        self.fast_service = cast(Service, self.config.app)
        # The request that takes the fast path, from its headers to its response.
        self.fast: FastRequest | None = None
        self.keep_alive = True

    def connection_lost(self, exc: Exception | None) -> None:
        self.fast = None
        super().connection_lost(exc)

    def on_message_begin(self) -> None:
        # Responses keep the order of requests.
        self._flush()
        super().on_message_begin()

    def start_request(self) -> None:
        path = PATHS.get(self.url)
        if path and self._is_usual(headers := dict(self.headers)):
            self.fast = FastRequest(path, headers, self._respond)
        else:
            super().start_request()

    def _is_usual(self, headers: Headers) -> bool:
        length = headers.get(b"content-length", b"")
        return (
            length.isdigit()
            and len(length) < 6
            and int(length) <= LARGEST_BODY
            and UNUSUAL_HEADERS.isdisjoint(headers)
            and self.parser.get_method() == b"POST"
            and self.parser.get_http_version() == "1.1"
            and (self.cycle is None or self.cycle.response_complete)
            and not self.flow.write_paused
        )

    def on_body(self, body: bytes) -> None:
        if self.fast:
            self.fast.body.append(body)
        else:
            super().on_body(body)

    def on_message_complete(self) -> None:
        if not self.fast:
            super().on_message_complete()
        elif self.transport.is_closing():
            self.fast = None
        else:
            self.keep_alive = self.parser.should_keep_alive()
            self.fast_service.fast_path.submit(self.fast)

    def _respond(self, response: Response, request_id: str) -> None:
        """Write the response to the request that takes the fast path."""
        self.fast = None
        if self.transport.is_closing():
            return
        self.request_ended()
        last = self.closing or self.fast_service.draining or not self.keep_alive
        headers = [*self.server_state.default_headers, *response.headers]
        if last:
            headers.append((b"connection", b"close"))
        self.transport.write(
            b"%bcontent-type: %b\r\ncontent-length: %d\r\nx-request-id: %b\r\n%b\r\n%b"
            % (
                STATUS_LINE[response.status],
                response.content_type.encode(),
                len(response.body),
                request_id.encode(),
                b"".join([b"%b: %b\r\n" % header for header in headers]),
                response.body,
            )
        )
        if last:
            self.end()

    def eof_received(self) -> bool:  # type: ignore[override]
        self._flush()
        return super().eof_received()

    def refuse(self, problem: Problem) -> None:
        """Close the connection with a problem, behind the responses to earlier requests."""
        self._flush()
        super().refuse(problem)

    def _flush(self) -> None:
        if self.fast:
            self.fast_service.fast_path.flush()

    def is_idle(self) -> bool:
        """Return True unless the head of a request has begun to arrive, or a fast request is open."""
        return self.fast is None and super().is_idle()
