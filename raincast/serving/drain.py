"""uvicorn's server with a drain: a signal ends it after a while, and no request is lost."""

from __future__ import annotations

import asyncio
import contextlib
import signal
import socket
import time
from collections.abc import Generator
from types import FrameType
from typing import Protocol, cast

import uvicorn

from raincast.serving.http_protocol import Connection
from raincast.serving.receiver import receiving


class Service(Protocol):
    """The part of the application that the server calls besides ASGI."""

    # pylint: disable=too-few-public-methods  # one event

    def drain(self) -> None:
        """Announce that new requests are not wanted any more."""


class DrainingServer(uvicorn.Server):
    """uvicorn's server, which drains on a signal and then ends successfully.

    On SIGTERM or SIGHUP the service is told at once; new connections are served for another `drain_seconds`; then
    requests in flight are finished. SIGINT skips the waiting, and a second signal ends it.
    """

    def __init__(self, config: uvicorn.Config, listener: socket.socket, drain_seconds: float) -> None:
        super().__init__(config)
        self.listener, self.drain_seconds = listener, drain_seconds
        self.stop_at: float | None = None
        self.swept_at = 0.0

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        if self.stop_at is None:
            cast(Service, self.config.app).drain()
            # A person who presses Ctrl-C waits for no load balancer.
            self.stop_at = time.monotonic() + (0.0 if sig == signal.SIGINT else self.drain_seconds)
        else:
            self.stop_at = 0.0
            self.force_exit = self.should_exit

    def handle_signals(self) -> None:
        """Drain on signals from now on; later ones do not cut short the writing of the logs either."""
        for sig in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            # nohup ignores SIGHUP.
            if sig != signal.SIGHUP or signal.getsignal(sig) is not signal.SIG_IGN:
                signal.signal(sig, self.handle_exit)

    @contextlib.contextmanager
    def capture_signals(self) -> Generator[None, None, None]:
        """Leave signals as they are, instead of uvicorn's raising them again: a drained server was not killed."""
        yield

    async def on_tick(self, counter: int) -> bool:
        """Check slow connections and the end of the drain, ten times a second."""
        self._sweep()
        if self.stop_at is not None and time.monotonic() >= self.stop_at:
            self.should_exit = True
        return await super().on_tick(counter)

    def _sweep(self) -> None:
        now = asyncio.get_running_loop().time()
        if now - self.swept_at > 1:
            self.swept_at = now
            for connection in list(self.server_state.connections):
                cast(Connection, connection).sweep(now)

    async def _keep_sweeping(self) -> None:
        while True:
            self._sweep()
            await asyncio.sleep(0.1)

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Take the connections that the kernel has accepted, then refuse new ones, then finish open requests."""
        loop = asyncio.get_running_loop()

        def connection() -> asyncio.BufferedProtocol:
            return receiving(
                config=self.config, server_state=self.server_state, app_state=self.lifespan.state, _loop=loop
            )

        waiting = []
        # None waits any more, or no more files may be open.
        with contextlib.suppress(OSError):
            while True:
                waiting.append(self.listener.accept()[0])
        for server in self.servers:
            server.close()
        self.listener.close()
        for accepted in waiting:
            accepted.setblocking(False)
            with contextlib.suppress(OSError):
                await loop.connect_accepted_socket(connection, accepted)
        # A request that is on its way on an idle connection still arrives.
        await asyncio.sleep(0.2)
        sweeping = asyncio.create_task(self._keep_sweeping())
        await super().shutdown()
        sweeping.cancel()
