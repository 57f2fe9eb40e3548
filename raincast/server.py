"""Forecasts over HTTP: the service's requests, its log, its metrics and its pages.

A small request is answered at once, where the connection has received it (`quick`), since every microsecond of it is
paid thousands of times a second. Large ones are forecast by one thread, so that the event loop stays free. Starlette
routes all the rest.
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
import itertools
import os
import re
import sys
import time
import traceback
from collections.abc import Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import msgspec
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from raincast import __version__, connections, forecast, metrics, openapi, pages, records
from raincast.answers import FORECAST, INVOCATIONS, JSON, Alone, Answer, Forecaster, Headers, refusal
from raincast.journal import Journal, to_descriptor, to_file
from raincast.model import GRAPH, Model
from raincast.observations import shorten
from raincast.problems import Problem

MAX_BODY = 10_000_000
# What a client may still send after it was refused, so that it gets to read why.
MAX_DISCARDED = 100_000_000
MAX_WAITING = 16
FORECASTS = {FORECAST, INVOCATIONS}
NOT_POST = ["GET", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE"]
REQUEST_ID = re.compile(r"[\w.:/+=@-]{1,128}", re.ASCII)
# https://www.w3.org/TR/trace-context/: version, trace, the caller's span, flags; only later versions may have more.
TRACEPARENT = re.compile(
    rb"(?:(00)|(?!00|ff)[0-9a-f]{2})-(?!0{32})(?P<trace>[0-9a-f]{32})-(?!0{16})(?P<parent>[0-9a-f]{16})-[0-9a-f]{2}"
    rb"(?(1)|(?:-.*)?)",
    re.DOTALL,
)

Scope = Any
Receive = Callable[[], Awaitable[Any]]
Send = Callable[[Any], Awaitable[None]]
Respond = Callable[[Answer, str], None]


class _Disconnected(Exception):
    """The client has gone."""


class Service:
    """The ASGI application: one model, loaded before the first request and kept until the last."""

    # pylint: disable=too-many-instance-attributes  # what one process serves with, set up once

    def __init__(self, model: Model, forecast_log: str | None = None) -> None:
        forecast.check_parity(model)
        self.model, self.forecaster = model, Forecaster(model)
        self.draining = False
        self._worker = ThreadPoolExecutor(1, thread_name_prefix="forecast")
        self._waiting = 0
        self._alone: list[tuple[Alone, float, str, Headers, Respond]] = []
        self._id_prefix, self._ids = os.urandom(6).hex(), itertools.count()
        self._second, self._second_text = 0, ""
        self._line_end = f',"model":"{model.version}"}}\n'
        if sys.stdout is None:
            raise OSError("standard output is closed, which the request log goes to")
        self._log = Journal(to_descriptor(sys.stdout.fileno()))
        self._forecast_log = Journal(to_file(forecast_log)) if forecast_log else None
        description, trained = model.description, model.trained
        self.metrics = metrics.Metrics(
            {"name": description["name"], "version": model.version}
            | {key: str(description[key]) for key in ("commit", "data_sha256")},
            {
                "model_trained_timestamp_seconds": ("When the model that serves was trained.", lambda: trained),
                "ready": ("1 until the service drains.", lambda: float(not self.draining)),
                "waiting_requests": ("Large requests that wait or are being forecast.", lambda: self._waiting),
                "request_log_lost_lines": ("Lines that could not be written.", lambda: self._log.lost),
                "forecast_log_lost_lines": (
                    "Forecasts that could not be written to RAINCAST_FORECAST_LOG.",
                    lambda: self._forecast_log.lost if self._forecast_log else 0,
                ),
            },
        )
        self._rest = _routes(self)

    def drain(self) -> None:
        """Say that no new requests are wanted; those that come are served."""
        self.draining = True

    def close(self) -> None:
        """Write what is left of the logs."""
        self._worker.shutdown()
        for journal in (self._log, self._forecast_log):
            if journal:
                journal.close()

    def quick(self, path: str, headers: Headers, body: bytes, start: float, respond: Respond) -> None:
        """Answer a small POST of forecasts: now, or with `flush`, which is called before the loop waits again.

        Never raises.
        """
        request_id = self._request_id(headers)
        try:
            found = self.forecaster.begin(path, headers, body)
            if isinstance(found, Answer):
                answer = self._counted(found, request_id)
            else:
                if not self._alone:
                    asyncio.get_running_loop().call_soon(self.flush)
                self._alone.append((found, start, request_id, headers, respond))
                return
        except Exception as error:  # pylint: disable=broad-exception-caught  # whatever it is, the client gets an answer
            answer = self._failed(path, error)
        self._respond(answer, path, start, request_id, headers, respond)

    def flush(self) -> None:
        """Answer the requests of one observation that have come since the loop waited, with one call for all trees."""
        alone, self._alone = self._alone, []
        if not alone:
            return
        try:
            probability = self.model.probabilities_alone([found.matrix for found, *_ in alone])
        except Exception as error:  # pylint: disable=broad-exception-caught  # whatever it is, the clients get an answer
            problem = _internal(error)
            for found, start, request_id, headers, respond in alone:
                self._respond(refusal(found.path, problem), found.path, start, request_id, headers, respond)
            return
        for (found, start, request_id, headers, respond), p in zip(alone, probability, strict=True):
            try:
                answer = self._counted(self.forecaster.finish(found, p), request_id)
            except Exception as error:  # pylint: disable=broad-exception-caught  # as above
                answer = self._failed(found.path, error)
            self._respond(answer, found.path, start, request_id, headers, respond)

    def _respond(
        self, answer: Answer, path: str, start: float, request_id: str, headers: Headers, respond: Respond
    ) -> None:
        self._note(start, "POST", path, answer, request_id, headers)
        respond(answer, request_id)

    def refused(self, problem: Problem) -> None:
        """Count what a connection was closed for."""
        self.metrics.errors[problem.kind] += 1

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        start = time.perf_counter()
        method, path = scope["method"], scope["path"]
        headers = dict(scope["headers"])
        request_id = self._request_id(headers)
        try:
            if path in FORECASTS and method == "POST":
                answer = self._counted(await self._forecasts(path, headers, receive), request_id)
            else:
                answer = await self._others(scope, receive)
        except _Disconnected:
            answer = Answer(408 if scope["state"].get("timed_out") else 499, b"", kind="disconnected")
        except Exception as error:  # pylint: disable=broad-exception-caught  # whatever it is, the client gets an answer
            answer = self._failed(path, error)
        if answer.kind != "disconnected":
            await self._send(answer, method, request_id, send)
        self._note(start, method, path, answer, request_id, headers)

    def _failed(self, path: str, error: Exception) -> Answer:
        return refusal(path, error if isinstance(error, Problem) else _internal(error))

    async def _send(self, answer: Answer, method: str, request_id: str, send: Send) -> None:
        headers = [
            (b"content-type", answer.content_type.encode()),
            (b"content-length", b"%d" % len(answer.body)),
            (b"x-request-id", request_id.encode()),
            *answer.headers,
        ]
        if self.draining:
            headers.append((b"connection", b"close"))
        await send({"type": "http.response.start", "status": answer.status, "headers": headers})
        await send({"type": "http.response.body", "body": b"" if method == "HEAD" else answer.body})

    def _request_id(self, headers: Headers) -> str:
        given = headers.get(b"x-request-id")
        if given is not None and REQUEST_ID.fullmatch(text := given.decode("latin-1")):
            return text
        return f"{self._id_prefix}-{next(self._ids):x}"

    def _note(self, start: float, method: str, path: str, answer: Answer, request_id: str, headers: Headers) -> None:
        """One line in the request log, and the metrics."""
        seconds = time.perf_counter() - start
        known = path if path in openapi.PATHS else "other"
        self.metrics.answered(method, known, answer.status, seconds)
        if answer.kind:
            self.metrics.errors[answer.kind] += 1
        shown = f'"{path}"' if known == path else msgspec.json.encode(shorten(path, 200)).decode()
        line = (
            f'{{"time":"{self._time()}","request_id":"{request_id}"{_trace(headers)},"method":"{method}",'
            f'"path":{shown},"status":{answer.status},"rows":{answer.rows},'
            f'"milliseconds":{seconds * 1000:.3f}{self._line_end}'
        )
        self._log.write(line.encode())

    def _time(self) -> str:
        now = time.time()
        second = int(now)
        if second != self._second:
            self._second, self._second_text = second, time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(second))
        return f"{self._second_text}.{int((now - second) * 1000):03d}Z"

    async def _forecasts(self, path: str, headers: Headers, receive: Receive) -> Answer:
        body = await _body(headers, receive)
        # Larger ones, of some dozens of observations and more, are forecast by the thread.
        if len(body) <= connections.QUICK_BYTES:
            return self.forecaster.answer(path, headers, body)
        if self._waiting >= MAX_WAITING:
            raise Problem(503, "busy", f"{MAX_WAITING} large requests are waiting, which is the limit")
        self._waiting += 1
        try:
            work = asyncio.get_running_loop().run_in_executor(self._worker, self.forecaster.answer, path, headers, body)
            return await asyncio.wait_for(work, connections.REQUEST_SECONDS - 1)
        except TimeoutError:
            raise Problem(503, "busy", "too many large requests are waiting") from None
        finally:
            self._waiting -= 1

    def _counted(self, answer: Answer, request_id: str) -> Answer:
        """Add forecasts to the metrics and to the log of forecasts."""
        observed, probability = answer.observed, answer.probability
        if isinstance(probability, float):
            self.metrics.forecast_row(observed, probability)
        else:
            self.metrics.forecast_table(observed, probability)
        if self._forecast_log is not None:
            self._log_forecasts(self._forecast_log, answer, request_id)
        return answer

    def _log_forecasts(self, journal: Journal, answer: Answer, request_id: str) -> None:
        alone = isinstance(answer.probability, float)
        rows = [answer.observed] if alone else records.rows_of_table(answer.observed)
        probability = [answer.probability] if alone else answer.probability.tolist()
        known = {"time": self._time(), "request_id": request_id, "model": self.model.version}
        for row, p in zip(rows, probability, strict=True):
            line = known | {
                "probability_of_rain": p,
                "rain_tomorrow": "Yes" if p >= self.forecaster.threshold else "No",
            }
            journal.write(msgspec.json.encode(line | {"observation": records.as_json(row)}) + b"\n")

    async def _others(self, scope: Scope, receive: Receive) -> Answer:
        """What Starlette's routes answer."""
        answer = Answer(500, b"", "")
        headers: list[tuple[bytes, bytes]] = []

        async def send(message: Any) -> None:
            if message["type"] == "http.response.start":
                answer.status = message["status"]
                headers.extend(message["headers"])
            else:
                answer.body += message.get("body", b"")

        await self._rest(scope, receive, send)
        answer.content_type = next((value.decode() for name, value in headers if name == b"content-type"), "")
        dropped = (b"content-type", b"content-length")
        answer.headers = tuple((name, value) for name, value in headers if name not in dropped)
        return answer


def _trace(headers: Headers) -> str:
    """Members of the request log that name the trace a request belongs to, where it came with one."""
    given = headers.get(b"traceparent")
    found = TRACEPARENT.fullmatch(given) if given is not None else None
    return f',"trace_id":"{found["trace"].decode()}","parent_id":"{found["parent"].decode()}"' if found else ""


def _routes(service: Service) -> Starlette:
    description = service.model.description

    async def healthz(_: Request) -> Response:
        return Response(b'{"status":"alive"}', media_type=JSON)

    async def readyz(_: Request) -> Response:
        if service.draining:
            raise Problem(503, "draining", "the service drains: it takes no new requests soon")
        return Response(b'{"status":"ready"}', media_type=JSON)

    async def ping(_: Request) -> Response:
        return Response(b"\n", media_type=JSON)

    version = msgspec.json.encode(
        {
            "package": __version__,
            "model": service.model.version,
            "commit": description["commit"],
            "data_sha256": description["data_sha256"],
            "model_sha256": description["files"][GRAPH],
        }
    )
    document = msgspec.json.encode(openapi.document(service.model.version))
    shown = {
        "/version": (version, JSON),
        "/openapi.json": (document, JSON),
        "/docs": (pages.docs().encode(), "text/html; charset=utf-8"),
        "/": (pages.home(service.model).encode(), "text/html; charset=utf-8"),
    }

    def page(content: bytes, media_type: str) -> Callable[[Request], Awaitable[Response]]:
        async def respond(_: Request) -> Response:
            return Response(content, media_type=media_type, headers=pages.HEADERS if "html" in media_type else None)

        return respond

    async def exposition(_: Request) -> Response:
        # Only who is scraped waits for what writes the counts to be imported.
        from raincast import exposition as written  # pylint: disable=import-outside-toplevel

        return Response(written.text(service.metrics), media_type=metrics.CONTENT_TYPE)

    async def only_post(_: Request) -> Response:
        raise HTTPException(405, headers={"Allow": "POST"})

    async def refused(_: Request, error: Exception) -> Response:
        assert isinstance(error, HTTPException)
        kind = {404: "not_found", 405: "method"}.get(error.status_code, "http")
        problem = Problem(error.status_code, kind, error.detail)
        problem.headers = tuple(
            (name.lower().encode(), value.encode()) for name, value in (error.headers or {}).items()
        )
        raise problem

    routes = [
        Route("/healthz", healthz),
        Route("/readyz", readyz),
        Route("/ping", ping),
        Route("/metrics", exposition),
        *(Route(path, page(*content)) for path, content in shown.items()),
        *(Route(path, only_post, methods=NOT_POST) for path in sorted(FORECASTS)),
    ]
    return Starlette(routes=routes, exception_handlers={HTTPException: refused})


def _internal(error: Exception) -> Problem:
    """What a client gets to know of an error that nobody expected; the rest is for standard error."""
    traceback.print_exception(error, file=sys.stderr)
    return Problem(500, "internal", "an error of the service, which it has written to its standard error")


async def _body(headers: Headers, receive: Receive) -> bytes:
    """The body of a request. Raises Problem where it is too large, _Disconnected where it ends early."""
    parts: list[bytes] = []
    size = 0
    length = headers.get(b"content-length", b"")
    # Who asks before sending is told at once; who does not is heard out, to get to read the answer.
    refused = b"expect" in headers and length.isdigit() and int(length) > MAX_BODY
    while not refused:
        message = await receive()
        if message["type"] == "http.disconnect":
            raise _Disconnected
        size += len(message["body"])
        if size <= MAX_BODY:
            parts.append(message["body"])
        if not message["more_body"]:
            break
        refused = size > MAX_DISCARDED
    if refused or size > MAX_BODY:
        problem = Problem(413, "too_large", f"the body is larger than {MAX_BODY} bytes")
        problem.headers = ((b"connection", b"close"),)
        raise problem
    return parts[0] if len(parts) == 1 else b"".join(parts)


def serve(model: Model, host: str, port: int, drain_seconds: float, forecast_log: str | None = None) -> None:
    """Serve a model until SIGTERM or SIGINT. Raises OSError where the address is taken."""
    with contextlib.closing(Service(model, forecast_log)) as service:
        listener = connections.listen(host, port)
        address = listener.getsockname()
        print(f"serving {model.description['name']} {model.version} on http://{host}:{address[1]}", file=sys.stderr)
        # What is there now stays: the collector need not look through it again and again.
        gc.collect()
        gc.freeze()
        connections.run(service, listener, drain_seconds)
