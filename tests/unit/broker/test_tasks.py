"""Ending tasks that do not listen the first time."""

from __future__ import annotations

import asyncio

from shared.tasks import stop_tasks


async def test_a_task_that_swallows_a_cancellation_is_cancelled_again() -> None:
    swallowed = 0

    async def deaf() -> None:
        nonlocal swallowed
        while True:
            try:
                await asyncio.sleep(60)
            except asyncio.CancelledError:
                swallowed += 1
                if swallowed == 2:
                    raise

    async def failing() -> None:
        raise OSError("seen by nobody")

    tasks = [asyncio.create_task(deaf()), asyncio.create_task(failing())]
    await asyncio.sleep(0)
    await asyncio.wait_for(stop_tasks(tasks), 5)
    assert swallowed == 2
    assert all(task.done() for task in tasks)
