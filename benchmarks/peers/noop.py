"""No-op service: reads the request and returns the file NOOP_RESPONSE. Measures the cost of Starlette and uvicorn."""

import os
from pathlib import Path

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

RESPONSE = Path(os.environ["NOOP_RESPONSE"]).read_bytes()


async def forecast(request: Request) -> Response:
    """Return the same response to every request."""
    await request.body()
    return Response(RESPONSE, media_type="application/json")


app = Starlette(routes=[Route("/forecast", forecast, methods=["POST"])])
