"""Budget of bytes and turns to read, which all connections share: no client takes the memory or time of others."""

from __future__ import annotations

import asyncio
from collections import deque
from typing import Protocol

# Bytes of requests and responses that the process holds at once. A pod has room for them, the model, one large body
# while it is decoded, and the kernel's buffers of a thousand connections; docs/operations.md has the measured sum.
HELD_BYTES = 64_000_000
# Only small requests may use the rest of the budget, so that they are served while large ones are refused.
HELD_BYTES_OF_LARGE = 40_000_000
# Connections that go on after a large read in one turn of the event loop.
READERS_PER_TURN = 4


class Budget:
    """Bytes that connections hold: heads and bodies of requests, and responses that clients have not read."""

    # pylint: disable=too-few-public-methods  # a number and its limit

    def __init__(self) -> None:
        self.held = 0

    def allows(self, more: int, large: bool) -> bool:
        """Return True if a request may hold `more` bytes."""
        return self.held + more <= (HELD_BYTES_OF_LARGE if large else HELD_BYTES)


class Reader(Protocol):
    """A connection that waits for its turn to read."""

    # pylint: disable=too-few-public-methods  # one event

    def take_turn(self) -> None:
        """Parse what was read and read again."""


class Turns:
    """Connections that deliver much, which read in turn: the event loop serves others between."""

    # pylint: disable=too-few-public-methods  # one entry

    def __init__(self) -> None:
        self._waiting: deque[Reader] = deque()

    def wait(self, reader: Reader) -> None:
        """Call `take_turn` of a connection in one of the next turns of the event loop."""
        if not self._waiting:
            asyncio.get_running_loop().call_soon(self._next)
        self._waiting.append(reader)

    def _next(self) -> None:
        loop = asyncio.get_running_loop()
        for _ in range(min(READERS_PER_TURN, len(self._waiting))):
            # Each in a call of its own: an error of one stops no other.
            loop.call_soon(self._waiting.popleft().take_turn)
        if self._waiting:
            loop.call_soon(self._next)
