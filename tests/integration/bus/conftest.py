"""A client of the bus, and consumers that run inside a `with`."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
from redis.asyncio import Redis

from shared.bus.client import BusClient
from shared.bus.consumer import Consumer
from tests.integration.bus.scenes import LEASE_S, REPLY_TO, Start, echo


@pytest.fixture
async def client(redis: Redis) -> AsyncIterator[BusClient]:
    bus = BusClient(redis, REPLY_TO)
    yield bus
    await bus.aclose()


@pytest.fixture
def start(redis: Redis) -> Start:
    """Run a consumer inside `async with start(handler, ...)`; it is drained at the end."""

    @asynccontextmanager
    async def running(handler: Any = echo, **options: Any) -> AsyncIterator[Consumer]:
        chosen: dict[str, Any] = {"worker": "w1", "lease_s": LEASE_S, "max_wait_ms": 2.0}
        chosen |= options
        consumer = Consumer(chosen.pop("redis", redis), "similarity", handler, **chosen)
        task = asyncio.create_task(consumer.run())
        try:
            yield consumer
        finally:
            consumer.stop()
            await asyncio.wait_for(task, 10)

    return running
