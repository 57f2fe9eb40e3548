"""The ASGI application: forecasts over HTTP, with metrics, a request log and a forecast log.

Requests of one regular observation are forecast in the event loop, others by threads, so that the loop stays free.
Starlette routes other requests.
"""

from __future__ import annotations

import asyncio
import sys
import time
import traceback
from collections.abc import Awaitable, Callable
from typing import Any

from starlette.routing import Route

from raincast.forecasting.forecast import check_parity, yes_or_no
from raincast.forecasting.model import Model
from raincast.observations.errors import shorten
from raincast.serving import decoding
from raincast.serving.fast_path import FastPath, FastRequest
from raincast.serving.forecaster import (
    FORECAST,
    INVOCATIONS,
    Forecaster,
    Headers,
    Response,
    failure_response,
    problem_response,
)
from raincast.serving.http_protocol import REQUEST_SECONDS, SMALL_BODY, response_bytes
from raincast.serving.lane import Lane
from raincast.serving.limits import Budget, Turns
from raincast.serving.log_writer import LogWriter, to_descriptor, to_file
from raincast.serving.metrics import Metrics
from raincast.serving.problems import Problem
from raincast.serving.request_log import Clock, ForecastLine, RequestIds, RequestLine, line, trace_of
from raincast.serving.routes import method_not_allowed, routes

# Requests that use a thread or wait for it. The budget of bytes limits large ones as well.
MAX_LARGE, MAX_SMALL = 16, 1_000
FORECAST_PATHS = frozenset({FORECAST, INVOCATIONS})

Scope = Any
Receive = Callable[[], Awaitable[Any]]
Send = Callable[[Any], Awaitable[None]]


class _Disconnected(Exception):
    """The client has disconnected."""


class Service:
    """The ASGI application: one model, loaded before the first request and kept until the last."""

    # pylint: disable=too-many-instance-attributes  # the parts of one process, set up once

    def __init__(self, model: Model, forecast_log: str | None = None) -> None:
        check_parity(model)
        self.model, self.forecaster = model, Forecaster(model)
        self.draining = False
        self.budget, self.turns = Budget(), Turns()
        # Small requests do not wait behind large ones, and at most one large body is decoded at a time.
        self._large, self._small = Lane("large", MAX_LARGE), Lane("small", MAX_SMALL)
        self.fast_path = FastPath(self.forecaster, self._finish)
        self._ids, self._clock, self._version = RequestIds(), Clock(), model.version
        if sys.stdout is None:
            raise OSError("standard output is closed; the request log needs it")
        self._log = LogWriter(to_descriptor(sys.stdout.fileno()))
        self._forecast_log = LogWriter(to_file(forecast_log)) if forecast_log else None
        self.metrics = self._make_metrics()
        self._routes = routes(model, self.metrics, lambda: self.draining)
        self._paths = FORECAST_PATHS | {route.path for route in self._routes.routes if isinstance(route, Route)}

    def _make_metrics(self) -> Metrics:
        description, trained = self.model.description, self.model.trained
        return Metrics(
            {"name": description["name"], "version": self.model.version}
            | {key: str(description[key]) for key in ("commit", "data_sha256")},
            {
                "model_trained_timestamp_seconds": ("Time of the model's training.", lambda: trained),
                "ready": ("1 until the service drains.", lambda: float(not self.draining)),
                "waiting_requests": (
                    "Requests that wait for a thread or are being forecast by it.",
                    lambda: self._large.waiting + self._small.waiting,
                ),
                "held_bytes": ("Bytes of requests and responses in memory.", lambda: self.budget.held),
                "request_log_lost_lines": ("Lines that could not be written.", lambda: self._log.lost),
                "forecast_log_lost_lines": (
                    "Forecasts that could not be written to RAINCAST_FORECAST_LOG.",
                    lambda: self._forecast_log.lost if self._forecast_log else 0,
                ),
            },
        )

    def drain(self) -> None:
        """Announce that new requests are not wanted any more; those that come are served."""
        self.draining = True

    def close(self) -> None:
        """Write the rest of the logs."""
        self._large.close()
        self._small.close()
        for log in (self._log, self._forecast_log):
            if log:
                log.close()

    def refused(self, problem: Problem, method: str, path: str, headers: Headers) -> bytes:
        """Count and log a request that is refused, and return the response. Method and path are "-" if unknown."""
        request_id = self._ids.of(headers)
        response = problem_response(path, problem)
        self._note(time.perf_counter(), method, path, response, request_id, headers)
        return response_bytes(response, request_id, (b"connection", b"close"))

    def abandoned(self, method: str, path: str, headers: Headers) -> None:
        """Count and log a request whose client has gone before its end."""
        response = Response(499, b"", kind="disconnected")
        self._note(time.perf_counter(), method, path, response, self._ids.of(headers), headers)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        start = time.perf_counter()
        method, path, headers = scope["method"], scope["path"], dict(scope["headers"])
        request_id = self._ids.of(headers)
        try:
            if path in FORECAST_PATHS and method == "POST":
                response = await self._forecast(scope, headers, receive)
            else:
                response = await self._other(scope, receive)
        except _Disconnected:
            response = Response(499, b"", kind="disconnected")
        except Exception as error:  # pylint: disable=broad-exception-caught  # every request gets a response
            response = failure_response(path, error)
        if response.kind != "disconnected":
            await self._send(response, method, request_id, send)
        self._note(start, method, path, response, request_id, headers)

    async def _forecast(self, scope: Scope, headers: Headers, receive: Receive) -> Response:
        """Return the response to a body. Raises Problem, or _Disconnected if the client does not wait for it."""
        body = await _body(receive)
        if len(body) > SMALL_BODY:
            return await self._in_thread(self._large, scope, headers, body, receive)
        single = self.forecaster.single_row(scope["path"], headers, body)
        if single:
            return self.forecaster.complete(single, self.forecaster.single_rows([single])[0])
        return await self._in_thread(self._small, scope, headers, body, receive)

    async def _in_thread(self, lane: Lane, scope: Scope, headers: Headers, body: bytes, receive: Receive) -> Response:
        loop = asyncio.get_running_loop()
        deadline = scope["state"].get("deadline", loop.time() + REQUEST_SECONDS) - 1
        work = asyncio.create_task(lane.run(self._response_or_failure, scope["path"], headers, body))
        gone = asyncio.ensure_future(receive())
        try:
            await asyncio.wait({work, gone}, timeout=deadline - loop.time(), return_when=asyncio.FIRST_COMPLETED)
            if work.done():
                return work.result()
            if gone.done():
                raise _Disconnected
            raise Problem(503, "busy", "too many requests are waiting")
        finally:
            work.cancel()
            gone.cancel()

    def _response_or_failure(self, path: str, headers: Headers, body: bytes) -> Response:
        """Return the response to a body. An error that left the thread would keep the body in a cycle of references."""
        try:
            return self.forecaster.respond(path, headers, body)
        except Exception as error:  # pylint: disable=broad-exception-caught  # every request gets a response
            return failure_response(path, error)

    def _finish(self, request: FastRequest, response: Response) -> None:
        """Send, count and record the response to a request that takes the fast path. Never raises."""
        request_id = self._ids.of(request.headers)
        request.respond(response, request_id)
        self._note(request.start, "POST", request.path, response, request_id, request.headers)

    async def _other(self, scope: Scope, receive: Receive) -> Response:
        """Return the response of Starlette's routes. Raises Problem."""
        if scope["path"] in FORECAST_PATHS:
            raise method_not_allowed("POST")
        response = Response(500, b"", "")
        headers: list[tuple[bytes, bytes]] = []

        async def send(message: Any) -> None:
            if message["type"] == "http.response.start":
                response.status = message["status"]
                headers.extend(message["headers"])
            else:
                response.body += message.get("body", b"")

        await self._routes(scope, receive, send)
        response.content_type = next((value.decode() for name, value in headers if name == b"content-type"), "")
        dropped = (b"content-type", b"content-length")
        response.headers = tuple((name, value) for name, value in headers if name not in dropped)
        return response

    async def _send(self, response: Response, method: str, request_id: str, send: Send) -> None:
        headers = [
            (b"content-type", response.content_type.encode()),
            (b"content-length", b"%d" % len(response.body)),
            (b"x-request-id", request_id.encode()),
            *response.headers,
        ]
        if self.draining:
            headers.append((b"connection", b"close"))
        await send({"type": "http.response.start", "status": response.status, "headers": headers})
        await send({"type": "http.response.body", "body": b"" if method == "HEAD" else response.body})

    def _note(
        self, start: float, method: str, path: str, response: Response, request_id: str, headers: Headers
    ) -> None:
        """Add a response to metrics and logs. Never raises: the response has been sent, and others may wait."""
        try:
            self._count(response, request_id)
            self._record(start, method, path, response, request_id, headers)
        except Exception as error:  # pylint: disable=broad-exception-caught  # others may wait
            self.metrics.errors["internal"] += 1
            traceback.print_exception(error, file=sys.stderr)

    def _count(self, response: Response, request_id: str) -> None:
        """Add forecasts to the metrics and to the forecast log."""
        observed, probability = response.observed, response.probability
        if observed is None:
            return
        if isinstance(probability, float):
            self.metrics.forecast_row(observed, probability)
        else:
            self.metrics.forecast_table(observed, probability)
        if self._forecast_log is not None:
            self._log_forecasts(self._forecast_log, response, request_id)

    def _log_forecasts(self, log: LogWriter, response: Response, request_id: str) -> None:
        single = isinstance(response.probability, float)
        rows = [response.observed] if single else decoding.rows_of_table(response.observed)
        probabilities = [response.probability] if single else response.probability.tolist()
        now, threshold = self._clock.now(), self.forecaster.threshold
        for row, p, rain in zip(rows, probabilities, yes_or_no(probabilities, threshold), strict=True):
            log.write(line(ForecastLine(now, request_id, self._version, p, rain, decoding.as_json(row))))

    def _record(
        self, start: float, method: str, path: str, response: Response, request_id: str, headers: Headers
    ) -> None:
        """Add a response to the metrics and to the request log."""
        seconds = time.perf_counter() - start
        known = path in self._paths
        self.metrics.responded(method, path if known else "other", response.status, seconds)
        if response.kind:
            self.metrics.errors[response.kind] += 1
        trace_id, parent_id = trace_of(headers)
        shown = path if known else shorten(path, 200)
        self._log.write(
            line(
                RequestLine(
                    self._clock.now(), request_id, trace_id, parent_id, method, shown, response.status, response.rows,
                    round(seconds * 1000, 3), self._version,
                )
            )
        )  # fmt: skip


async def _body(receive: Receive) -> bytes:
    """Return the body of a request. Raises _Disconnected if it ends early."""
    parts: list[bytes] = []
    more = True
    while more:
        message = await receive()
        if message["type"] == "http.disconnect":
            raise _Disconnected
        parts.append(message["body"])
        more = message["more_body"]
    return parts[0] if len(parts) == 1 else b"".join(parts)
