"""What ends a run's work from outside: a signal, a cancellation, a lost lease, a dead parent."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
from collections.abc import AsyncIterator, Coroutine, Iterable
from typing import Any, TypeVar

from redis.asyncio import Redis
from redis.exceptions import RedisError

from broker.run_keys import cancel_key
from shared.errors import TransientError
from shared.tasks import stop_tasks

Outcome = TypeVar("Outcome")

_CANCEL_INTERVAL_S = 0.4
_ORPHAN_INTERVAL_S = 1.0


class InterruptedRunError(TransientError):
    """The process was asked to stop; the run goes on where it was when it is picked up again."""


class CancelledRun(Exception):  # noqa: N818 - control flow, not an error
    """Somebody cancelled the run."""


async def under_guard(
    work: Coroutine[Any, Any, Outcome], guards: Iterable[Coroutine[Any, Any, None]]
) -> Outcome:
    """What `work` returns, unless a guard raises first: the work is stopped then."""
    working = asyncio.create_task(work)
    watching = [asyncio.create_task(guard) for guard in guards]
    try:
        await asyncio.wait({working, *watching}, return_when=asyncio.FIRST_COMPLETED)
        for guard in watching:
            if guard.done():
                guard.result()
        return await working
    finally:
        await stop_tasks((working, *watching))


async def until_cancelled(redis: Redis, run_id: str) -> None:
    """Raises: CancelledRun."""
    while True:
        with contextlib.suppress(RedisError):
            if await redis.get(cancel_key(run_id)) is not None:
                raise CancelledRun
        await asyncio.sleep(_CANCEL_INTERVAL_S)


class Parent:
    """Who started this process; to be made early in its life."""

    def __init__(self) -> None:
        self._pid = os.getppid()

    async def until_told_to_stop(self, terminated: asyncio.Event) -> None:
        """SIGTERM, or the death of the worker process that renews the lease of our job.

        Raises: InterruptedRunError.
        """
        while os.getppid() == self._pid:
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(terminated.wait(), _ORPHAN_INTERVAL_S)
                break
        raise InterruptedRunError("the coordinator was asked to stop; the run goes on later")


@contextlib.asynccontextmanager
async def sigterm_as_event() -> AsyncIterator[asyncio.Event]:
    """An event that SIGTERM sets, where this loop may handle signals."""
    event = asyncio.Event()
    loop = asyncio.get_running_loop()
    try:
        loop.add_signal_handler(signal.SIGTERM, event.set)
    except (RuntimeError, ValueError, NotImplementedError):  # not the main thread
        yield event
        return
    try:
        yield event
    finally:
        loop.remove_signal_handler(signal.SIGTERM)
