"""What a stopping consumer hands back others take at once, and nothing is held against it."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
from redis.asyncio import Redis

from shared.bus import keys
from shared.bus.client import BusClient
from shared.bus.consumer import Consumer
from shared.contracts.messages import RequestMessage
from shared.contracts.skills import TextsEmbedded
from tests.integration.bus.scenes import LEASE_S, Recorder, Start, collect, request, text_of, until

LONG_LEASE_S = 30.0
"""Nothing lapses by itself while a test watches."""


@asynccontextmanager
async def stuck(redis: Redis, **options: Any) -> AsyncIterator[Consumer]:
    """A consumer whose handler never returns, with a batch in hand."""
    handler = Recorder()
    handler.released.clear()
    consumer = Consumer(
        redis, "similarity", handler, worker="stuck", lease_s=LONG_LEASE_S, **options
    )
    task = asyncio.create_task(consumer.run())
    try:
        await asyncio.wait_for(handler.entered.wait(), 5)
        yield consumer
    finally:
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task


async def test_a_batch_handed_back_is_taken_at_once_by_others_as_a_batch(
    redis: Redis, client: BusClient, start: Start
) -> None:
    handler = Recorder()
    await client.send([request(name) for name in "abc"])
    async with stuck(redis) as stopping, start(handler, lease_s=LONG_LEASE_S) as other:
        await stopping.hand_back()
        given_back_s = time.monotonic()
        replies = await collect(client, 3)
        assert time.monotonic() - given_back_s < 5  # a lease would be 30
    assert [reply.message_id for reply in replies] == ["a", "b", "c"]
    assert handler.batches == [["a", "b", "c"]]
    assert (stopping.handed_back, other.redelivered) == (3, 0)
    assert (await client.depth("similarity")).pending == 0


async def test_the_one_who_handed_back_records_nothing_afterwards(
    redis: Redis, client: BusClient, start: Start
) -> None:
    handler = Recorder()
    handler.released.clear()
    consumer = Consumer(redis, "similarity", handler, worker="slow", lease_s=LONG_LEASE_S)
    await client.send([request("a")])
    task = asyncio.create_task(consumer.run())
    await handler.entered.wait()
    await consumer.hand_back()
    handler.released.set()
    await asyncio.wait_for(task, 5)
    assert consumer.late == 1
    async with start(worker="other"):
        (reply,) = await collect(client, 1)
    assert reply.worker == "other"
    assert await client.receive(0) == []


async def test_being_handed_back_many_times_makes_no_dead_letter(
    redis: Redis, client: BusClient, start: Start
) -> None:
    await client.send([request("a")])
    for _ in range(5):
        async with stuck(redis, max_deliveries=3) as stopping:
            await stopping.hand_back()
    async with start(max_deliveries=3):
        (reply,) = await collect(client, 1)
    assert isinstance(reply.body, TextsEmbedded)
    assert (await client.depth("similarity")).dead == 0


async def test_a_suspect_that_is_handed_back_stays_a_suspect(
    redis: Redis, client: BusClient, start: Start
) -> None:
    # Given a message that one worker has died of already, and an innocent one
    await client.send([request("suspect"), request("innocent")])
    pending = keys.requests("similarity", "lo")
    async with stuck(redis) as stopping:
        (entry, _) = await redis.xpending_range(pending, keys.GROUP, "-", "+", 2)
        await redis.xclaim(
            pending, keys.GROUP, stopping.name, 0, [entry["message_id"]], retrycount=2, justid=True
        )
        stopping._in_hand = {
            key: claim._replace(deliveries=2) if claim.entry_id == entry["message_id"] else claim
            for key, claim in stopping._in_hand.items()
        }
        await stopping.hand_back()
    handler = Recorder()
    async with start(handler) as consumer:
        await collect(client, 2)
    assert handler.batches == [["innocent"], ["suspect"]]
    assert consumer.redelivered == 1


async def test_a_thousand_queued_messages_of_a_cancelled_job_keep_agents_busy_for_no_two_seconds(
    client: BusClient, start: Start
) -> None:
    async def works(requests: list[RequestMessage]) -> list[TextsEmbedded]:
        await asyncio.sleep(0.05)  # as long as a model takes
        return [TextsEmbedded(results=()) for asked in requests if text_of(asked)]

    # Given 1,000 messages that two agents are working on,
    await client.send([request(str(n)) for n in range(1000)])
    first, second = Recorder(works), Recorder(works)  # type: ignore[arg-type]
    async with start(first, max_batch=8), start(second, max_batch=8, worker="w2"):
        await first.entered.wait()
        # when their job is cancelled,
        await client.cancel("job")
        cancelled_s = time.monotonic()

        async def idle() -> bool:
            depth = await client.depth("similarity")
            return depth.waiting + depth.pending == 0

        await until(idle)
        assert time.monotonic() - cancelled_s < 2
        # then each has its answer, and hardly any was worked on.
        assert len({reply.message_id for reply in await collect(client, 1000)}) == 1000
    assert len(first.batches) + len(second.batches) < 20


@pytest.mark.parametrize("count", [1, 3])
async def test_figures_tell_how_long_the_oldest_message_waits(
    redis: Redis, client: BusClient, start: Start, count: int
) -> None:
    seconds, _ = await redis.time()
    empty = await client.depth("similarity")
    assert (empty.waiting, empty.pending, empty.oldest_age_s) == (0, 0, 0.0)
    await redis.xadd(
        keys.requests("similarity", "lo"), {"m": b"?", "j": b""}, id=f"{(seconds - 60) * 1000}-0"
    )
    await client.send([request(str(n)) for n in range(count)], "hi")
    depth = await client.depth("similarity")
    assert depth.waiting == count + 1
    assert 59 <= depth.oldest_age_s <= 70
    async with start(lease_s=LEASE_S):
        await collect(client, count)
        await until(lambda: _is_empty(client))
    depth = await client.depth("similarity")
    assert (depth.waiting, depth.pending, depth.parked, depth.oldest_age_s) == (0, 0, 1, 0.0)


async def _is_empty(client: BusClient) -> bool:
    depth = await client.depth("similarity")
    return depth.waiting + depth.pending == 0
