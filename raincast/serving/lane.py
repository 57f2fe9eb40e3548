"""A thread for work that would keep the event loop from serving others."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

from raincast.serving.problems import Problem

T = TypeVar("T")


class Lane:
    """One thread, and at most `limit` requests that use it or wait, first come, first served.

    A request whose client has gone leaves the queue, and its memory is free.
    """

    def __init__(self, name: str, limit: int) -> None:
        self.name, self.limit, self.waiting = name, limit, 0
        self._thread = ThreadPoolExecutor(1, thread_name_prefix=name)
        self._turn = asyncio.Lock()

    async def run(self, work: Callable[..., T], *arguments: object) -> T:
        """Return what `work` returns in the thread. Raises Problem if too many requests wait."""
        if self.waiting >= self.limit:
            raise Problem(503, "busy", f"{self.limit} {self.name} requests are waiting, which is the limit")
        self.waiting += 1
        try:
            async with self._turn:
                running = asyncio.get_running_loop().run_in_executor(self._thread, work, *arguments)
                try:
                    return await asyncio.shield(running)
                except asyncio.CancelledError:
                    # The turn ends when the thread is free.
                    await asyncio.wait({running})
                    raise
        finally:
            self.waiting -= 1

    def close(self) -> None:
        """Wait for the work that is being done."""
        self._thread.shutdown()
