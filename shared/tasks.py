"""Ending tasks for certain."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from typing import Any

_ASK_AGAIN_S = 0.2


async def stop_tasks(tasks: Iterable[asyncio.Task[Any]]) -> None:
    """Cancel tasks and return when all have ended, however they did.

    One `cancel` is not enough: until Python 3.12 `asyncio.wait_for`, which the Redis client waits
    with, swallows a cancellation that comes in the same moment as the answer. A task that loops
    would go on for ever.
    """
    everything = set(tasks)
    unfinished = {task for task in everything if not task.done()}
    while unfinished:
        for task in unfinished:
            task.cancel()
        _, unfinished = await asyncio.wait(unfinished, timeout=_ASK_AGAIN_S)
    for task in everything:
        if not task.cancelled():
            task.exception()  # looked at, so that asyncio does not complain of it
