"""The coordinators' end: back-pressure, replies, queue depths, what is refused."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest
from redis.asyncio import Redis

from shared.bus import keys
from shared.bus.client import BusClient
from shared.bus.connection import connect, wait_until_reachable
from shared.contracts.messages import Failure, ReplyMessage, encode
from shared.errors import ConfigurationError, PermanentError, TransientError
from shared.redis_server import PrivateRedis
from tests.integration.bus.scenes import REPLY_TO, Start, collect, request, until

LO = keys.requests("similarity", "lo")


async def test_a_full_stream_makes_senders_wait_until_there_is_room(
    redis: Redis, start: Start
) -> None:
    client = BusClient(redis, REPLY_TO, queue_limit=3)
    await client.send([request("a"), request("b")])
    waiting = asyncio.create_task(client.send([request("c"), request("d")]))
    overtaking = asyncio.create_task(client.send([request("e")]))
    done, _ = await asyncio.wait([waiting, overtaking], timeout=0.1)
    assert not done  # neither in part nor out of order
    assert await redis.xlen(LO) == 2
    async with start(max_batch=1):
        replies = await collect(client, 5)
    await asyncio.gather(waiting, overtaking)
    assert [reply.message_id for reply in replies] == ["a", "b", "c", "d", "e"]
    await client.aclose()


async def test_a_sender_with_a_time_limit_gives_up_and_leaves_nothing_behind(
    redis: Redis, start: Start
) -> None:
    client = BusClient(redis, REPLY_TO, queue_limit=1)
    await client.send([request("a")])
    with pytest.raises(TransientError, match="full"):
        await client.send([request("b")], timeout_s=0.05)
    async with start():
        (reply,) = await collect(client, 1)
        assert reply.message_id == "a"
        await client.send([request("c")])
        (reply,) = await collect(client, 1)
    assert reply.message_id == "c"
    await client.aclose()


async def test_more_requests_than_a_stream_may_hold_are_refused_at_once(redis: Redis) -> None:
    client = BusClient(redis, REPLY_TO, queue_limit=2)
    with pytest.raises(PermanentError, match="XR_QUEUE_LIMIT"):
        await client.send([request(name) for name in "abc"])
    assert await redis.exists(LO) == 0
    await client.aclose()


async def test_sends_of_many_coroutines_leave_in_one_script_call(
    redis: Redis, client: BusClient
) -> None:
    await client.send([request("warm-up")])
    before = await redis.info("commandstats")
    await asyncio.gather(*(client.send([request(str(n))]) for n in range(50)))
    after = await redis.info("commandstats")
    calls = after["cmdstat_evalsha"]["calls"] - before["cmdstat_evalsha"]["calls"]
    assert calls == 1
    assert await redis.xlen(LO) == 51


async def test_a_redis_without_memory_is_waited_for_like_a_full_queue(
    redis: Redis, client: BusClient
) -> None:
    await redis.config_set("maxmemory", "1")
    try:
        with pytest.raises(TransientError):
            await client.send([request("a")], timeout_s=0.1)
        sending = asyncio.create_task(client.send([request("b")]))
    finally:
        await redis.config_set("maxmemory", "0")
    await asyncio.wait_for(sending, 5)
    assert await redis.xlen(LO) == 1


async def test_replies_come_in_order_and_no_more_than_asked_for(
    redis: Redis, client: BusClient
) -> None:
    for n in range(5):
        reply = ReplyMessage(message_id=str(n), worker="w", body=Failure("x"))
        await redis.rpush(REPLY_TO, encode(reply))
    first = await client.receive(1.0, limit=3)
    second = await client.receive(1.0, limit=1)
    third = await client.receive(0)
    assert [[r.message_id for r in part] for part in (first, second, third)] == [
        ["0", "1", "2"],
        ["3"],
        ["4"],
    ]
    assert await client.receive(0.01) == []


@pytest.mark.parametrize("timeout_s", [1e-6, 0.0005, 0.001])
async def test_waiting_for_the_shortest_of_times_is_not_waiting_for_ever(
    client: BusClient, timeout_s: float
) -> None:
    assert await asyncio.wait_for(client.receive(timeout_s), 5) == []


async def test_malformed_replies_are_parked_and_the_others_received(
    redis: Redis, client: BusClient
) -> None:
    good = ReplyMessage(message_id="a", worker="w", body=Failure("x"))
    await redis.rpush(REPLY_TO, b"rubbish", encode(request("no reply")), encode(good))
    (reply,) = await client.receive(5.0)
    assert reply == good
    parked = await client.parked_replies()
    assert [entry.payload for entry in parked] == [b"rubbish", encode(request("no reply"))]
    assert parked[0].stream == REPLY_TO


async def test_replies_nobody_reads_expire(redis: Redis, client: BusClient, start: Start) -> None:
    async with start() as consumer:
        await client.send([request("a")])
        await until(lambda: consumer.messages == 1)
    assert await redis.llen(REPLY_TO) == 1
    assert 0 < await redis.ttl(REPLY_TO) <= 3600


async def test_the_first_request_creates_the_group_so_that_lag_is_known_without_a_consumer(
    redis: Redis, client: BusClient
) -> None:
    await client.send([request("a")])
    (group,) = await redis.xinfo_groups(LO)
    assert group["name"] == keys.GROUP.encode()
    assert group["last-delivered-id"] == b"0-0"


async def test_an_unknown_dead_letter_cannot_be_retried(client: BusClient) -> None:
    with pytest.raises(PermanentError, match="no dead letter"):
        await client.retry_dead_letter("similarity", "123-0")
    with pytest.raises(PermanentError):
        await client.retry_dead_letter("similarity", "not an id")


async def test_a_service_does_not_start_with_a_wrong_or_missing_password(
    short_folder: Path,
) -> None:
    with PrivateRedis(short_folder, unix_socket=True, append_only=False) as server:
        owner = connect(server.url)
        await owner.config_set("requirepass", "right")
        for url in (f"unix://:secret@{server.socket_path}", f"unix://{server.socket_path}"):
            stranger = connect(url)
            with pytest.raises(ConfigurationError, match="XR_REDIS_URL") as raised:
                await asyncio.wait_for(wait_until_reachable(stranger), 5)
            assert "secret" not in str(raised.value)
            await stranger.aclose()
        await owner.aclose()


async def test_a_service_gives_up_on_an_absent_redis_after_its_time_limit(
    short_folder: Path,
) -> None:
    nobody = connect(f"unix://{short_folder}/nobody.sock")
    with pytest.raises(ConfigurationError, match=r"nobody\.sock"):
        await wait_until_reachable(nobody, timeout_s=0.1)
    await nobody.aclose()


def test_a_url_that_is_none_is_refused() -> None:
    with pytest.raises(ConfigurationError, match="XR_REDIS_URL"):
        connect("localhost:6379")
