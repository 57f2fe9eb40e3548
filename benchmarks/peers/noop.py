"""A service that reads the body and answers with the content of NOOP_ANSWER: what Starlette and uvicorn cost alone."""

import os
from pathlib import Path

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

ANSWER = Path(os.environ["NOOP_ANSWER"]).read_bytes()


async def forecast(request: Request) -> Response:
    """The same answer to everything."""
    await request.body()
    return Response(ANSWER, media_type="application/json")


app = Starlette(routes=[Route("/forecast", forecast, methods=["POST"])])
