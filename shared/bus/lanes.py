"""Messages that are worked on at once, for engines that gain by it."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any

from shared.tasks import stop_tasks


class Lanes:
    """At most `count` tasks of any kind, and a few more for interactive messages alone.

    What a task raises is raised by the next call of `check`, `change` or `drain`.
    """

    def __init__(self, count: int) -> None:
        self._count = count
        self._reserve = max(1, count // 4)
        self._tasks: set[asyncio.Task[None]] = set()

    @property
    def free(self) -> int:
        """Lanes free for any message."""
        return max(self._count - len(self._tasks), 0)

    @property
    def reserve(self) -> int:
        """Lanes free for an interactive message."""
        return max(self._count + self._reserve - len(self._tasks), 0)

    def start(self, work: Coroutine[Any, Any, None]) -> None:
        """A task of its own; the caller has looked whether a lane is free."""
        self._tasks.add(asyncio.create_task(work))

    def check(self) -> None:
        """Forget the finished. Raises: what one of them raised."""
        finished = {task for task in self._tasks if task.done()}
        self._tasks -= finished
        for task in finished:
            task.result()

    async def change(self, within_s: float) -> None:
        """Return when one has finished, or after so long."""
        if self._tasks:
            await asyncio.wait(self._tasks, timeout=within_s, return_when=asyncio.FIRST_COMPLETED)
        self.check()

    async def drain(self) -> None:
        """Return when all have finished."""
        while self._tasks:
            await asyncio.wait(self._tasks, return_when=asyncio.FIRST_EXCEPTION)
            self.check()

    async def abandon(self) -> None:
        """End what is under way without its answers."""
        await stop_tasks(self._tasks)
        self._tasks.clear()
