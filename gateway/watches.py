"""Watching runs: however many streams follow a run, it is looked up once every half second."""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import AsyncGenerator, Awaitable, Callable

from gateway.errors import ApiError
from gateway.records import TERMINAL_STATES, BenchmarkView

Look = Callable[[str], Awaitable[BenchmarkView | None]]
_EVERY_S = 0.5


class _Watch:
    """One run that is being watched: what was seen last, and how often there was a look."""

    def __init__(self) -> None:
        self.looked = asyncio.Condition()
        self.looks = 0
        self.view: BenchmarkView | None = None
        self.error: Exception | None = None
        self.watchers = 0
        self.task: asyncio.Task[None] | None = None


class RunWatches:
    """All watched runs of one gateway."""

    def __init__(self, look: Look, draining: threading.Event, every_s: float = _EVERY_S) -> None:
        """
        Args:
            look: a run as it is now, None when there is none.
            draining: when set, streams end: the run goes on, and another gateway shows it.
        """
        self._look = look
        self._draining = draining
        self._every_s = every_s
        self._watches: dict[str, _Watch] = {}

    async def follow(self, run_id: str) -> AsyncGenerator[BenchmarkView, None]:
        """The run at every look, until it is over. Raises: ApiError: it is gone; or what the look
        raises."""
        watch = self._watches.get(run_id)
        if watch is None:
            watch = self._watches[run_id] = _Watch()
            watch.task = asyncio.create_task(self._keep_looking(run_id, watch))
        watch.watchers += 1
        looks = 0
        try:
            while True:
                async with watch.looked:
                    while watch.looks == looks:
                        await watch.looked.wait()
                    looks = watch.looks
                    view, error = watch.view, watch.error
                if error is not None:
                    raise error
                if view is None:
                    raise ApiError(404, "unknown-benchmark", f"run {run_id!r} is gone")
                yield view
                if view.state in TERMINAL_STATES or self._draining.is_set():
                    return
        finally:
            watch.watchers -= 1
            if not watch.watchers and watch.task is not None:
                watch.task.cancel()
                self._watches.pop(run_id, None)

    async def aclose(self) -> None:
        for watch in list(self._watches.values()):
            if watch.task is not None:
                watch.task.cancel()
                with contextlib.suppress(asyncio.CancelledError):
                    await watch.task

    async def _keep_looking(self, run_id: str, watch: _Watch) -> None:
        while True:
            try:
                watch.view, watch.error = await self._look(run_id), None
            except Exception as error:  # told to everyone who watches
                watch.error = error
            async with watch.looked:
                watch.looks += 1
                watch.looked.notify_all()
            await asyncio.sleep(self._every_s)
