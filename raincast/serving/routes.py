"""Starlette routes: probes, version, metrics, the API document and pages."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from functools import cache
from types import ModuleType

import msgspec
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from raincast import __version__
from raincast.forecasting.model import GRAPH, Model
from raincast.serving import metrics
from raincast.serving.forecaster import JSON
from raincast.serving.messages import Status, Version
from raincast.serving.problems import Problem

HTML = "text/html; charset=utf-8"
Respond = Callable[[Request], Awaitable[Response]]


def routes(model: Model, counts: metrics.Metrics, draining: Callable[[], bool]) -> Starlette:
    """Return the application for all requests but POSTs of forecasts."""

    async def readyz(_: Request) -> Response:
        if draining():
            raise Problem(503, "draining", "the service drains and will stop soon")
        return Response(_status("ready"), media_type=JSON)

    async def scrape(_: Request) -> Response:
        # Imported on first scrape: prometheus_client adds 16 ms to start-up.
        from raincast.serving import prometheus  # pylint: disable=import-outside-toplevel

        return Response(prometheus.text(counts), media_type=metrics.CONTENT_TYPE)

    paths = {
        "/healthz": _constant(_status("alive")),
        "/readyz": readyz,
        "/ping": _constant(b"\n"),
        "/metrics": scrape,
        "/version": _constant(_version(model)),
        "/openapi.json": _built_once(lambda: _api_document(model), JSON),
        "/docs": _built_once(lambda: _pages().docs().encode(), HTML),
        "/": _built_once(lambda: _pages().home(model).encode(), HTML),
    }
    application = Starlette(
        routes=[Route(path, respond) for path, respond in paths.items()], exception_handlers={HTTPException: _refuse}
    )
    # A redirect would follow the Host header to anywhere.
    application.router.redirect_slashes = False
    return application


def _constant(content: bytes) -> Respond:
    return _built_once(lambda: content, JSON)


def _built_once(build: Callable[[], bytes], media_type: str) -> Respond:
    """Respond with content that is built on the first request: start-up does not wait for documents."""
    content = cache(build)

    async def respond(_: Request) -> Response:
        headers = _pages().HEADERS if media_type == HTML else None
        return Response(content(), media_type=media_type, headers=headers)

    return respond


def _api_document(model: Model) -> bytes:
    from raincast.serving import openapi  # pylint: disable=import-outside-toplevel

    return msgspec.json.encode(openapi.document(model.version))


def _pages() -> ModuleType:
    from raincast.serving import pages  # pylint: disable=import-outside-toplevel

    return pages


def _status(status: str) -> bytes:
    return msgspec.json.encode(Status(status))


def _version(model: Model) -> bytes:
    description = model.description
    return msgspec.json.encode(
        Version(
            package=__version__,
            model=model.version,
            commit=description["commit"],
            data_sha256=description["data_sha256"],
            model_sha256=description["files"][GRAPH],
        )
    )


def method_not_allowed(allowed: str) -> Problem:
    """Return the refusal of a method that a path does not have."""
    problem = Problem(405, "method", "Method Not Allowed")
    problem.headers = ((b"allow", allowed.encode()),)
    return problem


async def _refuse(_: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    kind = {404: "not_found", 405: "method"}.get(error.status_code, "http")
    problem = Problem(error.status_code, kind, error.detail)
    problem.headers = tuple((name.lower().encode(), value.encode()) for name, value in (error.headers or {}).items())
    raise problem
