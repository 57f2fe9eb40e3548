"""What an event loop calls on a connection: it reads into memory that the connection chooses.

A read into a small buffer bounds what thousands of clients, who send large requests at once, cost in one turn of the
event loop. asyncio and uvloop read so for an asyncio.BufferedProtocol only, and uvicorn's connections are none.
"""

from __future__ import annotations

import asyncio
from typing import Any, cast

from raincast.serving.fast_path import FastConnection


class Receiver:
    """The functions of an asyncio.BufferedProtocol, which are those of a connection."""

    # pylint: disable=too-few-public-methods  # its functions are attributes
    # pylint: disable=too-many-instance-attributes  # those of a protocol

    __slots__ = (
        "buffer_updated",
        "connection_lost",
        "connection_made",
        "eof_received",
        "get_buffer",
        "pause_writing",
        "resume_writing",
    )

    def __init__(self, connection: FastConnection) -> None:
        self.connection_made, self.connection_lost = connection.connection_made, connection.connection_lost
        self.get_buffer, self.buffer_updated = connection.get_buffer, connection.buffer_updated
        self.eof_received = connection.eof_received
        self.pause_writing, self.resume_writing = connection.pause_writing, connection.resume_writing


def receiving(*arguments: Any, **settings: Any) -> asyncio.BufferedProtocol:
    """Return what receives for a new connection; the arguments are those of uvicorn's connections."""
    return cast(asyncio.BufferedProtocol, Receiver(FastConnection(*arguments, **settings)))
