"""What the bus keeps when workers die, freeze or leave, and when Redis itself goes away."""

from __future__ import annotations

import asyncio
import logging
from pathlib import Path

import pytest
from redis.asyncio import Redis

from shared.bus import keys
from shared.bus.claims import Claims, Reply
from shared.bus.client import BusClient
from shared.bus.connection import connect
from shared.bus.consumer import Consumer, EngineDeadError
from shared.contracts.messages import Failure, ReplyMessage, RequestMessage, encode
from shared.contracts.skills import TextsEmbedded
from shared.redis_server import PrivateRedis
from tests.integration.bus.scenes import (
    LEASE_S,
    REPLY_TO,
    Recorder,
    Start,
    abandon,
    collect,
    echo,
    request,
    until,
)


def doomed(redis: Redis, max_batch: int = 32) -> Consumer:
    """A consumer that takes a batch and never answers."""
    handler = Recorder()
    handler.released.clear()
    return Consumer(
        redis, "similarity", handler, worker="doomed", lease_s=LEASE_S, max_batch=max_batch
    )


async def test_a_killed_worker_loses_no_request_and_each_is_delivered_again_alone(
    redis: Redis, client: BusClient, start: Start
) -> None:
    await client.send([request(name) for name in "abc"])
    await abandon(doomed(redis))
    assert (await client.depth("similarity")).pending == 3
    handler = Recorder()
    async with start(handler) as consumer:
        replies = await collect(client, 3)
    assert [reply.message_id for reply in replies] == ["a", "b", "c"]
    assert handler.batches == [["a"], ["b"], ["c"]]
    assert consumer.redelivered == 3
    assert await client.redis.xlen(keys.requests("similarity", "lo")) == 0


async def test_a_long_batch_keeps_its_messages_because_its_leases_are_renewed(
    client: BusClient, start: Start
) -> None:
    slow, idle = Recorder(), Recorder()
    slow.released.clear()
    await client.send([request("a")])
    async with start(slow, worker="w1"):
        await slow.entered.wait()
        # Given another consumer that looks for lapsed leases over more than two of them,
        async with start(idle, worker="w2") as other:
            await until(lambda: other._rescue_at_s > 0)
            first_look_s = other._rescue_at_s
            await until(lambda: other._rescue_at_s > first_look_s + 2.5 * LEASE_S)
            slow.released.set()
            (reply,) = await collect(client, 1)
    # then the message was never taken over.
    assert reply.worker == "w1"
    assert idle.batches == []
    assert other.redelivered == 0


async def test_what_a_frozen_worker_answers_after_waking_up_is_not_recorded(
    redis: Redis, client: BusClient, start: Start
) -> None:
    # Given a worker that froze with a message in hand (nobody renews its lease),
    await client.send([request("a")])
    frozen = Claims(redis, "similarity", "frozen", lease_s=LEASE_S, reply_expiry_s=60)
    await frozen.create_groups()
    (claim,), *_ = await frozen.take(10)
    late = Reply(
        claim,
        REPLY_TO,
        encode(ReplyMessage(message_id="a", worker="frozen", body=Failure("too late"))),
    )
    # when another has taken it over and is still busy with it,
    handler = Recorder()
    handler.released.clear()
    async with start(handler, worker="second"):
        await asyncio.wait_for(handler.entered.wait(), 10)
        # then the frozen one can neither answer nor renew, before
        assert await frozen.finish([late]) == 0
        assert await frozen.renew([claim]) == 0
        handler.released.set()
        (reply,) = await collect(client, 1)
        # and after the answer.
        assert await frozen.finish([late]) == 0
    assert reply.worker == "second"
    assert await client.receive(0) == []


async def test_a_message_that_kills_its_workers_ends_as_a_dead_letter_and_takes_nobody_along(
    redis: Redis, client: BusClient, start: Start
) -> None:
    # Given a message that no worker survives, in a batch with innocent ones,
    await client.send([request("innocent 1"), request("poison"), request("innocent 2")])
    await abandon(doomed(redis))
    answered: list[ReplyMessage] = []

    async def dies_of_poison(requests: list[RequestMessage]) -> list[object]:
        if any(asked.message_id == "poison" for asked in requests):
            raise EngineDeadError("killed by poison")
        return list(await echo(requests))

    deaths = 0
    async with asyncio.timeout(20):
        while len(answered) < 3:
            consumer = Consumer(
                redis, "similarity", dies_of_poison, worker="w", lease_s=LEASE_S  # type: ignore[arg-type]
            )  # fmt: skip
            task = asyncio.create_task(consumer.run())
            while not task.done() and len(answered) < 3:
                answered += await client.receive(0.05)
            consumer.stop()
            try:
                await task
            except EngineDeadError:
                deaths += 1
    # then it was tried three times in all (once by the doomed one), the others are answered,
    bodies = {reply.message_id: reply.body for reply in answered}
    assert deaths == 2
    assert isinstance(bodies["innocent 1"], TextsEmbedded)
    assert isinstance(bodies["innocent 2"], TextsEmbedded)
    # and it is kept, with the reason, and answered as failed for good.
    assert isinstance(bodies["poison"], Failure)
    assert "3 deliveries" in bodies["poison"].reason
    assert not bodies["poison"].retryable
    (letter,) = await client.dead_letters("similarity")
    assert (letter.deliveries, letter.job_id) == (4, "job")
    assert (await client.depth("similarity")).dead == 1

    # When a person has it tried again, a repaired worker answers it.
    await client.retry_dead_letter("similarity", letter.entry_id)
    async with start():
        (reply,) = await collect(client, 1)
    assert isinstance(reply.body, TextsEmbedded)
    assert await client.dead_letters("similarity") == []


async def test_malformed_bytes_are_parked_and_the_rest_of_their_batch_is_answered(
    redis: Redis, client: BusClient, start: Start
) -> None:
    stream = keys.requests("similarity", "lo")
    await client.send([request("a")])
    await redis.xadd(stream, {"m": b"\xc1 no msgpack"})
    await redis.xadd(stream, {"something": "else"})
    wrong_field = encode(request("half")).replace(b"query_id", b"query_ix")
    await redis.xadd(stream, {"m": wrong_field, "j": "job"})
    await client.send([request("b")])
    handler = Recorder()
    async with start(handler) as consumer:
        bodies = {reply.message_id: reply.body for reply in await collect(client, 3)}
    assert handler.batches == [["a", "b"]]
    assert consumer.parked == 3
    # The sender of the one that can still be attributed is told.
    assert isinstance(bodies["half"], Failure)
    assert "malformed" in bodies["half"].reason
    parked = await client.parked("similarity")
    assert [entry.payload for entry in parked] == [b"\xc1 no msgpack", b"", wrong_field]
    assert all(entry.stream == stream and entry.reason for entry in parked)
    assert (await client.depth("similarity")).pending == 0


async def test_a_reply_list_that_is_no_list_blocks_nobody_else(
    redis: Redis, client: BusClient, start: Start
) -> None:
    await redis.set("xr:reply:not-a-list", "text")
    wrong = RequestMessage(
        message_id="x",
        job_id="job",
        query_id="1",
        reply_to="xr:reply:not-a-list",
        body=request("x").body,
    )
    await client.send([wrong, request("a")])
    async with start():
        (reply,) = await collect(client, 1)
    assert reply.message_id == "a"
    assert await redis.xlen(keys.requests("similarity", "lo")) == 0


async def test_stopping_finishes_the_batch_in_hand_and_takes_nothing_new(
    redis: Redis, client: BusClient
) -> None:
    handler = Recorder()
    handler.released.clear()
    consumer = Consumer(redis, "similarity", handler, worker="w", max_batch=2, lease_s=LEASE_S)
    await client.send([request(name) for name in "abc"])
    task = asyncio.create_task(consumer.run())
    await handler.entered.wait()
    consumer.stop()
    handler.released.set()
    await asyncio.wait_for(task, 5)
    assert [reply.message_id for reply in await collect(client, 2)] == ["a", "b"]
    depth = await client.depth("similarity")
    assert (depth.waiting, depth.pending) == (1, 0)
    assert await client.live_agents() == []
    assert await redis.xinfo_consumers(keys.requests("similarity", "lo"), keys.GROUP) == []


async def test_a_dead_engine_ends_the_consumer_and_acknowledges_nothing(
    redis: Redis, client: BusClient
) -> None:
    async def dead(requests: list[RequestMessage]) -> list[object]:
        raise EngineDeadError("out of memory")

    await client.send([request("a"), request("b")])
    consumer = Consumer(redis, "similarity", dead, worker="w", lease_s=LEASE_S)  # type: ignore[arg-type]
    with pytest.raises(EngineDeadError):
        await asyncio.wait_for(consumer.run(), 5)
    assert (await client.depth("similarity")).pending == 2


async def test_a_redis_emptied_in_the_middle_is_served_again(
    redis: Redis, client: BusClient, start: Start
) -> None:
    handler = Recorder()
    handler.released.clear()
    async with start(handler) as consumer:
        await client.send([request("lost")])
        await handler.entered.wait()
        await redis.flushall()
        handler.released.set()
        await until(lambda: consumer.late == 1)
        await client.send([request("a")])
        (reply,) = await collect(client, 1)
    assert reply.message_id == "a"


async def test_a_restart_of_redis_in_the_middle_loses_no_request(
    short_folder: Path, caplog: pytest.LogCaptureFixture, start: Start
) -> None:
    caplog.set_level(logging.WARNING)
    with PrivateRedis(short_folder, append_only=True) as server:
        redis = connect(server.url)
        client = BusClient(redis, REPLY_TO)
        handler = Recorder()
        handler.released.clear()
        # Generous leases: the results in hand stay this consumer's.
        async with start(handler, redis=redis, max_batch=2, lease_s=30.0):
            # Given two messages in hand and two waiting,
            await client.send([request(name) for name in "abcd"])
            await handler.entered.wait()
            # when Redis goes away and a sender comes,
            server.stop()
            handler.released.set()
            sending = asyncio.create_task(client.send([request("e")]))
            receiving = asyncio.create_task(collect(client, 5))
            await until(lambda: "is not reachable" in caplog.text)
            server.start()
            # then everything is answered after its return.
            await asyncio.wait_for(sending, 10)
            replies = await receiving
        assert sorted(reply.message_id for reply in replies) == ["a", "b", "c", "d", "e"]
        assert handler.batches[0] == ["a", "b"]
        assert "answers again" in caplog.text
        assert f"redis://127.0.0.1:{server.port}/0" in caplog.text
        await client.aclose()
        await redis.aclose()


async def test_live_consumers_show_what_they_serve_and_vanish_when_they_stop(
    client: BusClient, start: Start
) -> None:
    handler = Recorder()
    handler.released.clear()
    await client.send([request("a")])
    caches = {"texts": (6, 4)}
    async with start(handler, worker="host-1", identity="clip@3f2a", caches=lambda: caches):
        await until(lambda: _is_alive(client))
        (agent,) = await client.live_agents()
        assert agent.caches == caches
        assert (agent.agent, agent.worker, agent.identity) == (
            "similarity",
            "host-1",
            "clip@3f2a",
        )
        assert agent.last_batch_at_s is None
        handler.released.set()
        await collect(client, 1)
    assert await client.live_agents() == []


async def test_a_consumer_that_died_vanishes_with_its_heartbeat(
    redis: Redis, client: BusClient
) -> None:
    await redis.sadd(keys.AGENTS, "dead-one")
    assert await client.live_agents() == []
    assert await redis.scard(keys.AGENTS) == 0


async def _is_alive(client: BusClient) -> bool:
    return bool(await client.live_agents())
