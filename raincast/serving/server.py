"""The server process: a listening socket, uvicorn's settings, the service from start to end."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import resource
import socket
import sys
from typing import cast

import uvicorn

from raincast.forecasting.model import Model
from raincast.observations.errors import printable
from raincast.serving.app import Service
from raincast.serving.drain import DrainingServer
from raincast.serving.http_protocol import REQUEST_SECONDS, Connection
from raincast.serving.receiver import receiving

BACKLOG = 2048
# Bytes that the kernel keeps unread for a connection (it counts them twice). Left to itself it would keep megabytes for
# each, in the memory of the pod, and with a thousand connections throw away packets of small requests. The price: a
# connection carries this much in a round trip, so 10 MB in 30 s up to one of 0.2 s; a proxy is usually much closer.
UNREAD_BYTES = 65_536
# The same for what a client does not read. The rest stays in the process, whose budget counts it.
UNACKNOWLEDGED_BYTES = 65_536
# Files that are not connections: logs, libraries, the listening socket.
OTHER_FILES = 64
# With fewer connections the service does not start.
MIN_CONNECTIONS = 100


def serve(model: Model, host: str, port: int, drain_seconds: float, forecast_log: str | None = None) -> None:
    """Serve a model until a signal. Raises OSError if the address is taken or too few files may be open."""
    Connection.limit = min(Connection.limit, raised_file_limit() - OTHER_FILES)
    with contextlib.closing(Service(model, forecast_log)) as service:
        listener = listen(host, port)
        server = draining(service, listener, drain_seconds)
        server.handle_signals()
        name, address = f"{model.description['name']} {model.version}", listener.getsockname()
        print(printable(f"serving {name} on http://{host}:{address[1]}"), file=sys.stderr)
        # Exclude long-lived start-up objects from garbage collection.
        gc.collect()
        gc.freeze()
        server.run(sockets=[listener])


def listen(host: str, port: int) -> socket.socket:
    """Return a listening socket. Raises OSError, naming the address, if it is taken or not of this machine."""
    try:
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        listener = socket.socket(family, socket.SOCK_STREAM)
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, UNREAD_BYTES)
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, UNACKNOWLEDGED_BYTES)
        listener.bind((host, port))
        listener.listen(BACKLOG)
        listener.setblocking(False)
    except (OSError, OverflowError, TypeError, UnicodeError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise OSError(f"cannot listen on {host}:{port}: {reason}") from error
    return listener


def draining(service: Service, listener: socket.socket, drain_seconds: float) -> DrainingServer:
    """Return the server of an application on a listening socket."""
    config = uvicorn.Config(
        service,
        http=cast(type[asyncio.Protocol], receiving),
        loop="uvloop",
        lifespan="off",
        ws="none",
        access_log=False,
        proxy_headers=False,
        log_config=None,
        log_level="error",
        timeout_graceful_shutdown=int(REQUEST_SECONDS) + 5,
        server_header=False,
        backlog=BACKLOG,
    )
    return DrainingServer(config, listener, drain_seconds)


def raised_file_limit() -> int:
    """Raise the limit of open files as far as connections need and the system allows; return it.

    Raises OSError if MIN_CONNECTIONS would exceed it.
    """
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted, needed = Connection.limit + OTHER_FILES, MIN_CONNECTIONS + OTHER_FILES
    if soft < wanted:
        soft = min(wanted, hard)
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    if soft < needed:
        raise OSError(f"the limit of open files is {soft}, at least {needed} are needed: raise it with `ulimit -n`")
    return soft
