"""Waiting for several tasks, whatever the order in which they end; ending tasks for certain."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Iterable, Sequence
from typing import Any, TypeVar

First = TypeVar("First")
Second = TypeVar("Second")
Part = TypeVar("Part")

_ASK_AGAIN_S = 0.2


async def both(first: Awaitable[First], second: Awaitable[Second]) -> tuple[First, Second]:
    """Both results; when both fail, the first one's error, whichever came first in time."""
    one, two = await asyncio.gather(first, second, return_exceptions=True)
    if isinstance(one, BaseException):
        raise one
    if isinstance(two, BaseException):
        raise two
    return one, two


async def together(parts: Sequence[Awaitable[Part]]) -> list[Part]:
    """All results in order; when some fail, the error of the first of them in order."""
    results = await asyncio.gather(*parts, return_exceptions=True)
    done: list[Part] = []
    for result in results:
        if isinstance(result, BaseException):
            raise result
        done.append(result)
    return done


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
