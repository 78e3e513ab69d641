"""Consumers whose messages don't wait for each other: engines that batch by themselves."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

import pytest
from redis.asyncio import Redis

from shared.bus.client import BusClient
from shared.bus.consumer import Answer, Consumer, EngineDeadError
from shared.contracts.messages import Failure, RequestMessage
from shared.tasks import stop_tasks
from shared.urgency import Urgency, urgency
from tests.integration.bus.scenes import LEASE_S, Start, collect, echo, request, text_of


class Held:
    """A handler whose messages each wait for their own release.

    Attributes:
        under_way, most: messages in hand now, and at most so far.
        urgencies: by text.
    """

    def __init__(self) -> None:
        self.gates: dict[str, asyncio.Event] = {}
        self.under_way = self.most = 0
        self.urgencies: dict[str, Urgency] = {}
        self.entered = asyncio.Condition()

    def release(self, text: str) -> None:
        self.gates.setdefault(text, asyncio.Event()).set()

    async def begun(self, count: int) -> None:
        async with self.entered, asyncio.timeout(10):
            await self.entered.wait_for(lambda: len(self.urgencies) >= count)

    async def __call__(self, requests: Sequence[RequestMessage]) -> list[Answer]:
        (asked,) = requests  # never a batch
        text = text_of(asked)
        self.urgencies[text] = urgency()
        self.under_way += 1
        self.most = max(self.most, self.under_way)
        async with self.entered:
            self.entered.notify_all()
        try:
            await self.gates.setdefault(text, asyncio.Event()).wait()
        finally:
            self.under_way -= 1
        if text == "doom":
            raise EngineDeadError("gone")
        return await echo(requests)


async def test_a_finished_message_is_answered_while_others_are_under_way(
    client: BusClient, start: Start
) -> None:
    held = Held()
    await client.send([request("slow"), request("quick")])
    async with start(held, concurrency=4) as consumer:
        await held.begun(2)
        held.release("quick")
        (reply,) = await collect(client, 1)
        assert reply.message_id == "quick"
        assert consumer.in_flight == 1
        held.release("slow")
        (reply,) = await collect(client, 1)
        assert reply.message_id == "slow"
    assert consumer.messages == 2


async def test_a_person_does_not_wait_for_a_free_lane(client: BusClient, start: Start) -> None:
    held = Held()
    await client.send([request(str(n)) for n in range(9)])
    async with start(held, concurrency=4):
        # Given all lanes taken by a benchmark
        await held.begun(4)
        # When a person asks
        await client.send([request("person")], "hi")
        await held.begun(5)
        # Then nobody else has got that place
        assert held.urgencies["person"] is Urgency.INTERACTIVE
        assert held.urgencies["0"] is Urgency.BENCHMARK
        held.release("person")
        assert (await collect(client, 1))[0].message_id == "person"
        for n in range(9):
            held.release(str(n))
        await collect(client, 9)
    assert held.most == 5


async def test_leases_of_all_that_is_under_way_are_renewed(client: BusClient, start: Start) -> None:
    held = Held()
    await client.send([request("a"), request("b")])
    async with start(held, concurrency=2), start(worker="w2") as other:
        await held.begun(2)
        await asyncio.sleep(3 * LEASE_S)
        held.release("a")
        held.release("b")
        await collect(client, 2)
        assert other.messages == 0


async def test_a_suspect_is_answered_alone(redis: Redis, client: BusClient, start: Start) -> None:
    # Given a message whose worker has died
    lost = Held()
    await client.send([request("suspect")])
    dying = Consumer(redis, "similarity", lost, worker="dying", lease_s=LEASE_S, concurrency=2)
    task = asyncio.create_task(dying.run())
    await lost.begun(1)
    await stop_tasks([task])
    # When another worker takes it over while others are under way
    held = Held()
    held.release("innocent")
    held.release("suspect")
    await client.send([request("innocent")])
    async with start(held, concurrency=8) as consumer:
        assert len(await collect(client, 2)) == 2
        assert consumer.redelivered == 1
    assert held.most == 1


async def test_a_dead_engine_ends_the_consumer_and_nothing_is_acknowledged(
    redis: Redis, client: BusClient
) -> None:
    held = Held()
    held.release("doom")
    await client.send([request("doom"), request("other")])
    consumer = Consumer(redis, "similarity", held, worker="w1", lease_s=LEASE_S, concurrency=4)
    with pytest.raises(EngineDeadError):
        await asyncio.wait_for(consumer.run(), 10)
    assert (await client.depth("similarity")).pending == 2


async def test_a_failure_is_the_message_s_own(client: BusClient, start: Start) -> None:
    async def fussy(requests: Sequence[RequestMessage]) -> list[Answer]:
        if text_of(requests[0]) == "bad":
            raise ValueError("cannot be")
        return await echo(requests)

    await client.send([request(text) for text in ("a", "bad", "b")])
    async with start(fussy, concurrency=4):
        replies = {reply.message_id: reply.body for reply in await collect(client, 3)}
    assert [name for name, body in replies.items() if isinstance(body, Failure)] == ["bad"]
