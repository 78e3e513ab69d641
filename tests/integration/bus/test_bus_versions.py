"""Old and new programs on one bus, while a version of the messages is rolled out or back."""

from __future__ import annotations

import logging
from typing import Any

import msgpack
import msgspec
import pytest
from redis.asyncio import Redis

from shared.bus import keys
from shared.bus.client import BusClient
from shared.bus.waiting_list import WaitingList
from shared.contracts.messages import Failure, ReplyMessage, RequestMessage, encode
from shared.contracts.skills import TextsEmbedded
from tests.integration.bus.scenes import (
    LEASE_S,
    REPLY_TO,
    Recorder,
    Start,
    abandon,
    collect,
    request,
    until,
)
from tests.integration.bus.test_bus_survival import doomed

LO = keys.requests("similarity", "lo")


def of_next_version(message: RequestMessage) -> RequestMessage:
    return msgspec.structs.replace(message, schema_version=2)


def with_unknown_body(message_id: str) -> bytes:
    fields = msgpack.unpackb(encode(request(message_id)))
    payload: bytes = msgpack.packb(
        fields | {"schema_version": 2, "body": {"type": "DreamUpImages"}}
    )
    return payload


async def test_old_and_new_workers_side_by_side_answer_what_each_can_read(
    client: BusClient, start: Start
) -> None:
    # Given messages of both versions, and an old worker that takes all of them first
    old, new = Recorder(), Recorder()
    both = [request(f"v1 {n}") for n in range(3)]
    both += [of_next_version(request(f"v2 {n}")) for n in range(3)]
    await client.send(both)
    async with start(old, worker="old", lease_s=30.0) as old_worker:
        await collect(client, 3)
        await until(lambda: old_worker.too_new == 3)
        # When a new worker comes
        async with start(new, worker="new", lease_s=30.0, reads_version=2) as new_worker:
            replies = await collect(client, 3)
    # Then it answers the newer ones, at once and as one batch, and none is suspected
    assert {reply.worker for reply in replies} == {"new"}
    assert all(isinstance(reply.body, TextsEmbedded) for reply in replies)
    assert old.batches == [["v1 0", "v1 1", "v1 2"]]
    assert new.batches == [["v2 0", "v2 1", "v2 2"]]
    assert (old_worker.parked, new_worker.redelivered, old_worker.dead_lettered) == (0, 0, 0)


async def test_after_a_roll_back_new_workers_still_answer_old_messages(
    client: BusClient, start: Start
) -> None:
    await client.send([request("a"), of_next_version(request("b"))])
    async with start(worker="new", reads_version=2):
        replies = await collect(client, 2)
    assert [reply.message_id for reply in replies] == ["a", "b"]
    assert {type(reply.body) for reply in replies} == {TextsEmbedded}


async def test_a_newer_message_that_no_worker_can_read_waits_then_fails_with_the_reason(
    redis: Redis, client: BusClient, start: Start, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.WARNING)
    now_s = 0.0
    await redis.xadd(LO, {"m": with_unknown_body("new skill"), "j": "job"})
    async with start(lease_s=LEASE_S, max_deliveries=3) as consumer:
        consumer._too_new = WaitingList(600.0, lambda: now_s)
        # It is looked at again and again, without counting towards a dead letter
        await until(lambda: consumer.too_new > 5)
        assert (await client.depth("similarity")).dead == 0
        assert await client.receive(0) == []
        # until the patience is over
        now_s = 601.0
        (reply,) = await collect(client, 1)
    assert reply.message_id == "new skill"
    assert isinstance(reply.body, Failure)
    assert "schema version 2, this program reads up to 1; no newer worker" in reply.body.reason
    assert "left 1 of version 2 to newer workers" in caplog.text
    # and kept for a person, who can have it tried again once there are newer workers
    (letter,) = await client.dead_letters("similarity")
    assert letter.payload == with_unknown_body("new skill")


async def test_a_newer_message_that_kills_its_workers_still_ends_as_a_dead_letter(
    redis: Redis, client: BusClient, start: Start
) -> None:
    # Given three new workers that died of it, while an old one looks at it in between
    await client.send([of_next_version(request("poison"))])
    for _ in range(3):
        async with start(lease_s=LEASE_S) as old_worker:
            await until(lambda seen=old_worker: seen.too_new > 0)  # type: ignore[misc]
        killed = doomed(redis)
        killed._reads_version = 2
        await abandon(killed)
    async with start(lease_s=LEASE_S, reads_version=2):
        (reply,) = await collect(client, 1)
    assert isinstance(reply.body, Failure)
    assert "3 deliveries" in reply.body.reason


async def test_a_worker_ignores_fields_that_a_later_program_of_its_version_adds(
    redis: Redis, client: BusClient, start: Start
) -> None:
    fields = msgpack.unpackb(encode(request("a"))) | {"tenant": "x"}
    fields["body"]["precision"] = 3
    await redis.xadd(LO, {"m": msgpack.packb(fields), "j": "job", "a new field": "y"})
    async with start():
        (reply,) = await collect(client, 1)
    assert isinstance(reply.body, TextsEmbedded)


async def test_a_reply_of_a_newer_version_means_ask_again(redis: Redis, client: BusClient) -> None:
    newer = ReplyMessage(message_id="a", worker="new", body=Failure("x"), schema_version=2)
    fields = msgpack.unpackb(encode(newer)) | {"body": {"type": "ImagesDreamt"}}
    await redis.rpush(REPLY_TO, msgpack.packb(fields))
    (reply,) = await client.receive(5.0)
    assert (reply.message_id, reply.worker) == ("a", "new")
    assert isinstance(reply.body, Failure)
    assert reply.body.retryable
    assert "schema version 2" in reply.body.reason


async def test_a_newer_reply_that_does_not_say_to_what_is_parked(
    redis: Redis, client: BusClient
) -> None:
    payload = msgpack.packb({"schema_version": 2, "answers": "all of them"})
    await redis.rpush(REPLY_TO, payload)
    assert await client.receive(0.05) == []
    assert [entry.payload for entry in await client.parked_replies()] == [payload]


async def test_heartbeats_of_other_versions_are_read_as_far_as_they_go(
    redis: Redis, client: BusClient, start: Start
) -> None:
    async with start(worker="ours"):
        await until(lambda: _one_lives(client))
        (ours,) = await client.live_agents()
        fields: dict[str, Any] = msgspec.to_builtins(ours) | {"consumer": "z-later", "mood": "fine"}
        for earlier in ("ready", "busy_share", "too_new", "retried", "caches"):
            del fields[earlier]
        await redis.set(keys.heartbeat("z-later"), msgpack.packb(fields))
        await redis.set(keys.heartbeat("z-unreadable"), msgpack.packb({"agent": 7}))
        await redis.sadd(keys.AGENTS, "z-later", "z-unreadable")
        assert [agent.consumer for agent in await client.live_agents()] == [
            ours.consumer,
            "z-later",
        ]


async def test_a_request_whose_answer_would_go_to_a_key_of_others_is_parked(
    redis: Redis, client: BusClient, start: Start
) -> None:
    await redis.set("rq:queue:bench", "untouched")
    foreign = msgspec.structs.replace(request("a"), reply_to="rq:queue:bench")
    await client.send([foreign, request("b")])
    async with start() as consumer:
        await collect(client, 1)
        await until(lambda: consumer.parked == 1)
    assert await redis.get("rq:queue:bench") == b"untouched"
    (entry,) = await client.parked("similarity")
    assert "reply_to is 'rq:queue:bench'" in entry.reason


async def _one_lives(client: BusClient) -> bool:
    return bool(await client.live_agents())
