"""Requests with a preference go to the consumer they prefer, and are never lost with it."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
from redis.asyncio import Redis
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import ResponseError

from shared.bus.client import BusClient
from shared.bus.consumer import Consumer
from shared.bus.preferences import _SHELF_HOLDS
from shared.bus.presence import presence_of, show
from shared.contracts.messages import RequestMessage
from shared.tasks import stop_tasks
from tests.integration.bus.scenes import LEASE_S, Recorder, Start, abandon, collect, request, until

LONG_LEASE_S = 30.0


def _for(consumers: list[Consumer], count: int) -> list[RequestMessage]:
    """Requests that prefer the consumers in turn."""
    return [
        request(str(number), prefers=consumers[number % len(consumers)].name)
        for number in range(count)
    ]


async def test_each_goes_to_the_one_it_prefers(
    redis: Redis, client: BusClient, start: Start
) -> None:
    first, second = Recorder(), Recorder()
    async with (
        start(first, worker="w1", max_batch=4, lease_s=LONG_LEASE_S) as one,
        start(second, worker="w2", max_batch=4, lease_s=LONG_LEASE_S) as other,
    ):
        await until(lambda: _alive(client, 2))
        workers = {"w1": one, "w2": other}
        kept = 0
        for _ in range(10):
            asked = _for([one, other], 20)
            await client.send(asked)
            prefers = {message.message_id: message.prefers for message in asked}
            for reply in await collect(client, 20):
                kept += prefers[reply.message_id] == workers[reply.worker].name
        assert kept >= 0.9 * 200
        assert one.left + other.left > 0
        assert one.messages + other.messages == 200
        assert one.redelivered == other.redelivered == 0


async def test_with_several_at_once_too(redis: Redis, client: BusClient, start: Start) -> None:
    async with (
        start(Recorder(), worker="w1", concurrency=4, lease_s=LONG_LEASE_S) as one,
        start(Recorder(), worker="w2", concurrency=4, lease_s=LONG_LEASE_S) as other,
    ):
        await until(lambda: _alive(client, 2))
        asked = _for([one, other], 60)
        await client.send(asked)
        prefers = {message.message_id: message.prefers for message in asked}
        replies = await collect(client, 60)
        workers = {"w1": one, "w2": other}
        kept = sum(prefers[reply.message_id] == workers[reply.worker].name for reply in replies)
        assert kept >= 54


async def test_what_prefers_somebody_unknown_is_answered_at_once(
    client: BusClient, start: Start
) -> None:
    async with start(Recorder(), lease_s=LONG_LEASE_S) as consumer:
        await client.send([request("a", prefers="nobody"), request("b", prefers="x" * 100)])
        began_s = time.monotonic()
        assert {reply.message_id for reply in await collect(client, 2)} == {"a", "b"}
        assert time.monotonic() - began_s < 2
        assert consumer.left == 0


async def test_what_was_left_to_one_that_died_goes_to_the_others(
    redis: Redis, client: BusClient, start: Start
) -> None:
    """Its heartbeat stays for a while, so that others go on leaving it requests meanwhile."""
    dying = Consumer(redis, "similarity", Recorder(), worker="dying", lease_s=LEASE_S, max_batch=2)
    handler = dying._handler
    assert isinstance(handler, Recorder)
    handler.released.clear()
    await client.send([request("in hand", prefers=dying.name)])
    await abandon(dying)
    await show(redis, presence_of(dying, ready=True))  # as a killed process leaves it
    async with start(Recorder(), worker="living", lease_s=LEASE_S) as living:
        await client.send(_for([dying], 8))
        replies = await collect(client, 9)
        assert sorted(reply.message_id for reply in replies) == sorted([*"01234567", "in hand"])
        assert {reply.worker for reply in replies} == {"living"}
        assert living.left == 8
        assert living.redelivered == 1  # only what was in hand is a suspect
        assert (await client.depth("similarity")).pending == 0


async def test_what_was_left_to_one_that_stops_is_anybodys_at_once(
    redis: Redis, client: BusClient, start: Start
) -> None:
    handler = Recorder()
    handler.released.clear()
    async with start(Recorder(), worker="living", lease_s=LONG_LEASE_S) as living:
        stopping = Consumer(
            redis, "similarity", handler, worker="stopping", lease_s=LONG_LEASE_S, max_batch=1
        )
        await client.send([request("in hand", prefers=stopping.name)])
        task = asyncio.create_task(stopping.run())
        await until(lambda: _alive(client, 2))
        await client.send(_for([stopping], 5))
        await until(lambda: living.left >= 4)
        stopping.stop()
        handler.released.set()
        began_s = time.monotonic()
        replies = await collect(client, 6)
        assert time.monotonic() - began_s < 5  # a lease is 30
        assert len({reply.message_id for reply in replies}) == 6
        await asyncio.wait_for(task, 10)


@asynccontextmanager
async def busy(redis: Redis, client: BusClient) -> AsyncIterator[tuple[Consumer, Recorder]]:
    """A consumer with one request in hand, for as long as its handler is not released."""
    handler = Recorder()
    handler.released.clear()
    slow = Consumer(redis, "similarity", handler, worker="slow", lease_s=LONG_LEASE_S, max_batch=1)
    await client.send([request("in hand", prefers=slow.name)])
    task = asyncio.create_task(slow.run())
    await asyncio.wait_for(handler.entered.wait(), 5)
    await until(lambda: _alive(client, 1))
    try:
        yield slow, handler
    finally:
        await stop_tasks([task])


async def test_a_full_shelf_leaves_the_rest_to_whoever_is_free(
    redis: Redis, client: BusClient, start: Start
) -> None:
    async with (
        busy(redis, client) as (slow, handler),
        start(Recorder(), worker="free", lease_s=LONG_LEASE_S) as free,
    ):
        await client.send(_for([slow], _SHELF_HOLDS + 10))
        replies = await collect(client, 10)
        assert {reply.worker for reply in replies} == {"free"}
        assert free.left == _SHELF_HOLDS
        handler.released.set()
        assert {reply.worker for reply in await collect(client, _SHELF_HOLDS + 1)} == {"slow"}


async def test_a_persons_request_waits_for_nobody(
    redis: Redis, client: BusClient, start: Start
) -> None:
    async with (
        busy(redis, client) as (slow, _),
        start(Recorder(), worker="free", lease_s=LONG_LEASE_S) as free,
    ):
        await client.send([request("person", prefers=slow.name)], "hi")
        (reply,) = await collect(client, 1, timeout_s=3)
        assert (reply.worker, free.left) == ("free", 0)


async def test_what_redis_does_not_take_for_another_is_worked_on_at_once(
    redis: Redis, client: BusClient, start: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with (
        busy(redis, client) as (slow, _),
        start(Recorder(), worker="free", lease_s=LONG_LEASE_S) as free,
    ):

        async def is_away(*_: object) -> list[object]:
            raise RedisConnectionError("is away")

        monkeypatch.setattr(free._claims, "leave", is_away)
        await client.send(_for([slow], 3))
        replies = await collect(client, 3, timeout_s=5)  # a lease is 30
        assert {reply.worker for reply in replies} == {"free"}
        assert (free.redelivered, free.left) == (0, 0)


async def test_a_consumer_whose_queue_redis_has_lost_stops_without_a_word(
    client: BusClient, start: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with start(Recorder(), lease_s=LONG_LEASE_S) as consumer:

        async def is_lost() -> None:
            raise ResponseError("NOGROUP No such key")

        monkeypatch.setattr(consumer._claims, "release_shelf", is_lost)
    assert await client.live_agents() == []


async def _alive(client: BusClient, count: int) -> bool:
    return len(await client.live_agents()) == count
