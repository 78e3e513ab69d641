"""What Redis itself may suffer: a crash, an outage, loss of its data, no memory left."""

from __future__ import annotations

import asyncio
import logging
import os
import signal
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from redis.asyncio import Redis

from shared.bus import keys
from shared.bus.client import BusClient
from shared.bus.connection import connect
from shared.bus.consumer import Answer
from shared.contracts.messages import RequestMessage
from shared.contracts.skills import TextsEmbedded, Vector
from shared.redis_server import PrivateRedis
from tests.integration.bus.scenes import (
    LEASE_S,
    REPLY_TO,
    Recorder,
    Start,
    collect,
    echo,
    request,
    until,
)

pytestmark = pytest.mark.usefixtures("redis_server")  # which skips where there is no server program


@asynccontextmanager
async def bus_on(server: PrivateRedis) -> AsyncIterator[tuple[Redis, BusClient]]:
    redis = connect(server.url)
    client = BusClient(redis, REPLY_TO)
    try:
        yield redis, client
    finally:
        await client.aclose()
        await redis.aclose()


async def test_a_killed_redis_that_kept_its_log_comes_back_with_every_message(
    short_folder: Path, start: Start, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.WARNING)
    with PrivateRedis(short_folder, options=("--appendfsync", "always")) as server:
        async with bus_on(server) as (redis, client):
            handler = Recorder()
            handler.released.clear()
            async with start(handler, redis=redis, max_batch=4, lease_s=30.0):
                # Given a batch in hand, and others waiting,
                await client.send([request(str(n)) for n in range(10)])
                await handler.entered.wait()
                receiving = asyncio.create_task(collect(client, 10))
                # when Redis is killed and started again,
                server.kill()
                handler.released.set()
                await until(lambda: "is not reachable" in caplog.text)
                server.start()
                replies = await receiving
            # then each is answered exactly once.
            assert sorted(int(reply.message_id) for reply in replies) == list(range(10))
            assert await client.receive(0) == []
            assert client.outages == 1


async def test_redis_away_for_longer_than_a_lease_doubles_no_answer(
    short_folder: Path, start: Start
) -> None:
    with PrivateRedis(short_folder) as server:
        async with bus_on(server) as (redis, client):
            first, second = Recorder(), Recorder()
            first.released.clear()
            async with (
                start(first, redis=redis, worker="w1", max_batch=4) as one,
                start(second, redis=redis, worker="w2", max_batch=4) as two,
            ):
                await client.send([request(str(n)) for n in range(12)])
                await first.entered.wait()
                # Redis answers nobody for four leases, and keeps all connections
                assert server.pid is not None
                os.kill(server.pid, signal.SIGSTOP)
                await asyncio.sleep(4 * LEASE_S)
                os.kill(server.pid, signal.SIGCONT)
                first.released.set()
                replies = await collect(client, 12)
                assert sorted(int(reply.message_id) for reply in replies) == list(range(12))
                await until(lambda: one.in_flight + two.in_flight == 0)
            assert await client.receive(0) == []


async def test_a_redis_restarted_empty_is_served_again_and_what_was_lost_can_be_asked_again(
    short_folder: Path, start: Start
) -> None:
    with PrivateRedis(short_folder, append_only=False) as server:
        async with bus_on(server) as (redis, client):
            handler = Recorder()
            handler.released.clear()
            async with start(handler, redis=redis, max_batch=2) as consumer:
                await client.send([request(name) for name in "abcd"])
                await handler.entered.wait()
                server.kill()
                server.start()
                handler.released.set()
                await until(lambda: consumer.late == 2)
                assert await client.receive(0) == []
                # The sender, who has no answer, sends the same again
                await client.send([request(name) for name in "abcd"])
                replies = await collect(client, 4)
    assert [reply.message_id for reply in replies] == ["a", "b", "c", "d"]


async def test_a_restart_too_short_for_the_connection_to_break_is_noticed_all_the_same(
    short_folder: Path,
) -> None:
    with PrivateRedis(short_folder, append_only=False) as server:
        async with bus_on(server) as (_, client):
            assert await client.receive(0.01) == []
            server.kill()
            server.start()
            # The pool mends its connection without a word
            await until(lambda: _has_noticed(client))
            assert client.outages == 1
            await asyncio.sleep(1.1)
            assert await client.receive(0) == []
            assert client.outages == 1


async def _has_noticed(client: BusClient) -> bool:
    await client.receive(0)
    return client.outages > 0


async def test_at_its_memory_limit_senders_wait_and_answers_still_go_out(
    short_folder: Path, start: Start, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.WARNING)
    size = 20_000

    async def long_answers(requests: Sequence[RequestMessage]) -> list[Answer]:
        return [TextsEmbedded((Vector(b"x" * size),)) for _ in await echo(requests)]

    with PrivateRedis(short_folder) as server:
        async with bus_on(server) as (redis, client):
            # Given a queue that has filled Redis to its limit, and a sender that waits
            await client.send([request(f"queued {n}", "y" * size) for n in range(50)])
            used = (await redis.info("memory"))["used_memory"]
            await redis.config_set("maxmemory", used - 10 * size)
            sends = [client.send([request(f"waiting {n}", "z" * size)]) for n in range(50)]
            sending = asyncio.gather(*sends)
            await until(lambda: "OOM" in caplog.text)
            assert "refuses" in caplog.text
            assert not sending.done()
            # When agents come, and a job is cancelled meanwhile
            async with start(long_answers, redis=redis, max_batch=8) as consumer:
                await client.cancel("another job")
                # Then every answer is recorded, room is made, and the sender goes on
                replies = await collect(client, 100)
                await sending
            assert len({reply.message_id for reply in replies}) == 100
            assert all(isinstance(reply.body, TextsEmbedded) for reply in replies)
            assert (consumer.late, consumer.dead_lettered) == (0, 0)
            assert await redis.exists(keys.cancel("another job"))


async def test_an_agent_that_starts_at_the_memory_limit_lives_and_sets_bad_messages_aside(
    short_folder: Path, start: Start
) -> None:
    with PrivateRedis(short_folder) as server:
        async with bus_on(server) as (redis, client):
            await client.send([request("a")])
            await redis.xadd(keys.requests("similarity", "lo"), {"m": b"rubbish", "j": b""})
            await redis.config_set("maxmemory", 1)
            async with start(redis=redis) as consumer:
                (reply,) = await collect(client, 1)
                await until(lambda: consumer.parked == 1)
                (alive,) = await client.live_agents()
            assert isinstance(reply.body, TextsEmbedded)
            assert alive.consumer == consumer.name
            assert len(await client.parked("similarity")) == 1
