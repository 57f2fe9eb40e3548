"""Fast path: requests of one regular observation are answered without a task and ASGI messages.

Those that arrive together share one call of onnxruntime, and each response is one write. Other requests take the ASGI
path, with the same result. docs/decisions.md has the measured gain.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Protocol, cast

from raincast.serving.forecaster import (
    FORECAST,
    INVOCATIONS,
    Forecaster,
    Headers,
    Response,
    SingleRow,
    failure_response,
)
from raincast.serving.http_protocol import SMALL_BODY, Connection, response_bytes
from raincast.serving.problems import Problem

PATHS = {path.encode(): path for path in (FORECAST, INVOCATIONS)}


@dataclass(slots=True)
class FastRequest:
    """A small POST of forecasts; `respond` writes its response, with the request's identifier."""

    path: str
    headers: Headers
    body: bytes
    respond: Callable[[Response, str], None]
    start: float = field(default_factory=time.perf_counter)


@dataclass(slots=True)
class Waiting:
    """A request whose single row waits for its probability."""

    request: FastRequest
    single: SingleRow


class FastPath:
    """Forecasts single rows, in a batch before the event loop waits again.

    `finish` sends a response and must not raise.
    """

    def __init__(self, forecaster: Forecaster, finish: Callable[[FastRequest, Response], None]) -> None:
        self._forecaster, self._finish = forecaster, finish
        self._waiting: list[Waiting] = []

    def takes(self, request: FastRequest) -> bool:
        """Return True for a single regular observation, whose response comes in the next `flush`. Never raises."""
        try:
            single = self._forecaster.single_row(request.path, request.headers, request.body)
        except Exception:  # pylint: disable=broad-exception-caught  # the ASGI path meets it again, and reports it
            return False
        if single is None:
            return False
        if not self._waiting:
            asyncio.get_running_loop().call_soon(self.flush)
        self._waiting.append(Waiting(request, single))
        return True

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
    """A connection with limits whose requests of one observation take the fast path."""

    # pylint: disable=too-many-instance-attributes  # those of its bases

    def __init__(self, *arguments: Any, **settings: Any) -> None:
        super().__init__(*arguments, **settings)
        self.fast_service = cast(Service, self.config.app)
        # The request that takes the fast path, until its response.
        self.fast: FastRequest | None = None

    def connection_lost(self, exc: Exception | None) -> None:
        self.fast = None
        super().connection_lost(exc)

    def dispatch(self, body: bytes) -> None:
        """Start to answer a complete request."""
        path = PATHS.get(self.url)
        if path and len(body) <= SMALL_BODY and self._is_usual():
            self.fast = FastRequest(path, self.fields, body, self._respond)
            if self.fast_service.fast_path.takes(self.fast):
                return
            self.fast = None
        super().dispatch(body)

    def _is_usual(self) -> bool:
        return bool(self.parser.get_method() == b"POST" and self.parser.get_http_version() == "1.1")

    def _respond(self, response: Response, request_id: str) -> None:
        """Write the response to the request that takes the fast path."""
        if self.fast is None or self.transport.is_closing():
            return
        self.fast = None
        last = self.last or self.closing or self.fast_service.draining
        headers = [*self.server_state.default_headers, *([(b"connection", b"close")] if last else [])]
        self.transport.write(response_bytes(response, request_id, *headers))
        if last:
            self.end()
        self.request_ended()
