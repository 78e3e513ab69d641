"""The gateway's HTTP server: told to stop, it first says so, then finishes what it has begun."""

from __future__ import annotations

import asyncio
import socket
import threading
from types import FrameType

import uvicorn


class DrainingServer(uvicorn.Server):
    """SIGTERM or SIGINT: /readyz turns red, requests are still taken for a while (until whoever
    routes them has seen it), then no new ones are; those under way are finished, and `run` returns.

    A second signal of the same kind ends the waiting.
    """

    def __init__(self, config: uvicorn.Config, draining: threading.Event, drain_s: float) -> None:
        """
        Args:
            draining: set when the first signal comes.
            drain_s: how long requests are still taken after it.
        """
        super().__init__(config)
        self._draining = draining
        self._drain_s = drain_s
        self._loop: asyncio.AbstractEventLoop | None = None

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        self._loop = asyncio.get_running_loop()
        await super().startup(sockets)

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """Not as uvicorn has it: it would end the process by the signal once it has drained."""
        if self.should_exit:
            self.force_exit = True
        elif self._draining.is_set() or self._loop is None:
            self.should_exit = True
        else:
            self._draining.set()
            self._loop.call_soon_threadsafe(self._stop_later)

    def _stop_later(self) -> None:
        asyncio.get_running_loop().call_later(self._drain_s, self._stop)

    def _stop(self) -> None:
        self.should_exit = True
