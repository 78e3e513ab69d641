"""Thousands of hostile entries between good ones: the good are answered, the loops live on."""

from __future__ import annotations

import asyncio
import contextlib
import random
import resource
from collections.abc import Sequence

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from redis.asyncio import Redis
from redis.exceptions import ResponseError

from broker.agents_client import AgentsClient
from shared.bus import keys
from shared.bus.client import BusClient
from shared.bus.consumer import Answer
from shared.bus.presence import read_heartbeat
from shared.contracts.limits import MAX_REQUEST_BYTES, MAX_TEXT_CHARACTERS
from shared.contracts.messages import Failure, ReplyMessage, RequestMessage, decode, encode
from shared.contracts.skills import (
    CaptionImages,
    CompareCandidates,
    EmbedTexts,
    ImagineText,
    TextsEmbedded,
    Vector,
    VerifyImages,
)
from shared.errors import DecodeError, NewerVersionError
from shared.settings import Settings
from tests.fuzz.payloads import DEEP, LYING_LENGTHS, hostile_payload
from tests.integration.bus.scenes import REPLY_TO, Start, echo, request, text_of, until

STREAM = keys.requests("similarity", "lo")
HOSTILE = 3_000
GOOD = 150
SEED = 20260101


async def answer_what_is_asked(requests: Sequence[RequestMessage]) -> list[Answer]:
    """Echoes texts; what else a mutation may have turned a message into gets an answer, too."""
    return [
        TextsEmbedded(results=(Vector(text_of(asked).encode()),))
        if isinstance(asked.body, EmbedTexts) and asked.body.texts
        else Failure("not for this agent")
        for asked in requests
    ]


def hostile_entries(rng: random.Random) -> list[dict[str | bytes, bytes | str]]:
    """Stream entries: hostile messages, and entries that are none."""
    good = [encode(request(f"h{n}", job_id="hostile")) for n in range(4)]
    odd: list[dict[str | bytes, bytes | str]] = [
        {"nothing": "here"},
        {"m": ""},
        {"j": "job"},
        {b"\xff\xfe": b"\xff", "m": b"\xc1"},
        {"m": good[0], "j": b"\xff\xfe\x00"},
        {"m": b"\xdd" + b"\xff" * 4, "j": "x" * 5_000},
        {"m": b"\x00" * 2_000_000, "j": "job"},
        {"M": good[0]},
    ]
    return [
        rng.choice(odd) if rng.random() < 0.05 else {"m": hostile_payload(rng, good), "j": "job"}
        for _ in range(HOSTILE)
    ]


async def test_a_consumer_answers_every_good_request_among_thousands_of_hostile_ones(
    redis: Redis, client: BusClient, start: Start
) -> None:
    rng = random.Random(SEED)
    entries = hostile_entries(rng)
    newer = [entry for entry in entries if is_newer(entry.get("m", b""))]
    pending = [request(f"good-{n}") for n in range(GOOD)]
    answered: set[str] = set()
    async with start(answer_what_is_asked, max_batch=32) as consumer:
        for first in range(0, HOSTILE, HOSTILE // 10):
            await client.send([pending.pop() for _ in range(GOOD // 10)])
            pipeline = redis.pipeline(transaction=False)
            for entry in entries[first : first + HOSTILE // 10]:
                pipeline.xadd(STREAM, entry)
            await pipeline.execute()
        async with asyncio.timeout(60):
            while len(answered) < GOOD:
                answered |= {
                    reply.message_id
                    for reply in await client.receive(1.0)
                    if reply.message_id.startswith("good-")
                    and isinstance(reply.body, TextsEmbedded)
                }
            # What says it is of a newer version is left to newer workers.
            await until(lambda: _has_at_most(redis, len(newer)), 60)
        assert consumer.parked > HOSTILE / 2
        await client.send([request("good-last")])  # the loop lives
        while "good-last" not in answered:
            answered |= {reply.message_id for reply in await client.receive(1.0)}
    parked = await client.parked("similarity", limit=HOSTILE)
    assert len(parked) == consumer.parked
    assert all(entry.reason for entry in parked)


async def _has_at_most(redis: Redis, entries: int) -> bool:
    return bool(await redis.xlen(STREAM) <= entries)


def is_newer(payload: bytes | str) -> bool:
    try:
        decode(payload if isinstance(payload, bytes) else payload.encode(), RequestMessage)
    except NewerVersionError:
        return True
    except DecodeError:
        pass
    return False


async def test_a_coordinator_gets_every_answer_among_thousands_of_hostile_replies(
    redis: Redis, client: BusClient, start: Start
) -> None:
    rng = random.Random(SEED)
    good = [
        encode(ReplyMessage(message_id=f"x{n}", worker="w", body=body))
        for n, body in enumerate((Failure("no"), TextsEmbedded((Vector(b"1234"),))))
    ]
    settings = Settings(ask_timeout_s=30, ask_attempts=2)
    async with start(echo), AgentsClient(client, "run", 1, settings) as agents:
        asked = []
        for n in range(GOOD):
            pipeline = redis.pipeline(transaction=False)
            for _ in range(HOSTILE // GOOD):
                pipeline.rpush(REPLY_TO, hostile_payload(rng, good))
            await pipeline.execute()
            asked.append(
                asyncio.create_task(agents.ask("q", "embed", str(n), EmbedTexts((f"{n}",))))
            )
            await asyncio.sleep(0)
        answers = await asyncio.wait_for(asyncio.gather(*asked), 60)
    assert answers == [TextsEmbedded((Vector(f"{n}".encode()),)) for n in range(GOOD)]
    assert await client.parked_replies(10)


async def test_a_request_beyond_the_limits_is_refused_in_words(
    client: BusClient, start: Start
) -> None:
    long = "a" * (MAX_TEXT_CHARACTERS + 1)
    hostile = {
        "text": ImagineText(long),
        "ten megabytes": ImagineText("a" * 10_000_000),
        "questions": VerifyImages("g", (1,), ("?",) * 101),
        "rows": CaptionImages("g", tuple(range(10_001))),
        "negative row": CaptionImages("g", (-1,)),
        "huge row": CompareCandidates("g", 2**40, (1,), "x"),
    }
    requests = [
        RequestMessage(message_id=name, job_id="j", query_id="q", reply_to=REPLY_TO, body=body)
        for name, body in hostile.items()
    ]
    requests.append(
        RequestMessage(
            message_id="id", job_id="j", query_id="q" * 10_000, reply_to=REPLY_TO,
            body=EmbedTexts(("a",)),
        )
    )  # fmt: skip
    # All to the one stream that is served here: it is the decoder that refuses them.
    for asked in requests:
        await client.redis.xadd(STREAM, {"m": encode(asked), "j": "j"})
    await client.send([request("fine")])
    reasons: dict[str, str] = {}
    async with start(echo), asyncio.timeout(20):
        while len(reasons) < len(requests) + 1:
            for reply in await client.receive(1.0):
                refused = isinstance(reply.body, Failure)
                reasons[reply.message_id] = reply.body.reason if refused else ""  # type: ignore[union-attr]
    assert reasons.pop("fine") == ""
    assert "length <= 10000" in reasons["text"]
    assert f"at most {MAX_REQUEST_BYTES:,} are read" in reasons["ten megabytes"]
    assert "length <= 100" in reasons["questions"]
    assert "$.body.rows" in reasons["rows"]
    assert ">= 0" in reasons["negative row"]
    assert "$.body.reference_row" in reasons["huge row"]
    assert "$.query_id" in reasons["id"]


async def test_heartbeats_and_dead_letters_of_any_bytes_are_shown_or_left_out(
    redis: Redis, client: BusClient, start: Start
) -> None:
    rng = random.Random(SEED)
    async with start(echo):
        await until(lambda: _has_agents(client))
        (good,) = [await redis.get(key) for key in await redis.keys("xr:agents:*")]
        for n in range(300):
            await redis.set(keys.heartbeat(f"h{n}"), hostile_payload(rng, [good]))
            await redis.sadd(keys.AGENTS, f"h{n}")
        await redis.sadd(keys.AGENTS, b"\xff\xfe", b"", "x" * 5_000)
        await redis.lpush(keys.heartbeat("list"), "no string")
        await redis.sadd(keys.AGENTS, "list")
        assert any(agent.worker == "w1" for agent in await client.live_agents())
    for entry in hostile_entries(rng)[:300]:
        await redis.xadd(keys.dead("similarity"), entry)
    letters = await client.dead_letters("similarity", limit=1_000)
    assert len(letters) == 300


async def _has_agents(client: BusClient) -> bool:
    return bool(await client.live_agents())


@pytest.mark.parametrize("kind", ["string", "list", "set"])
async def test_keys_of_the_wrong_kind_stop_no_loop(
    redis: Redis, client: BusClient, start: Start, kind: str
) -> None:
    async def spoil(key: str) -> None:
        pipeline = redis.pipeline(transaction=True).delete(key)
        if kind == "string":
            pipeline.set(key, "x")
        elif kind == "list":
            pipeline.rpush(key, "x")
        else:
            pipeline.sadd(key, "x")
        await pipeline.execute()

    async with start(echo) as consumer:
        await spoil(keys.parked("similarity"))
        await spoil(keys.dead("similarity"))
        await spoil(STREAM)
        if kind != "list":
            await spoil(REPLY_TO)
        if kind != "set":
            await spoil(keys.AGENTS)
        await redis.xadd(keys.requests("similarity", "hi"), {"m": b"\xc1"})
        async with asyncio.timeout(20):
            replies: set[str] = set()
            while "fine" not in replies:
                with contextlib.suppress(ResponseError):  # until a consumer has made room
                    await client.send([request("fine")])
                replies |= {reply.message_id for reply in await client.receive(1.0)}
        await until(lambda: consumer.in_flight == 0)


@settings(max_examples=300)
@given(st.binary(max_size=200))
def test_any_bytes_are_a_heartbeat_or_none(payload: bytes) -> None:
    read_heartbeat(payload)


def test_lengths_that_lie_take_no_memory() -> None:
    good = encode(request("x"))
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    for hostile in (*LYING_LENGTHS, *DEEP):
        for place in range(0, len(good), 3):
            for kind in (RequestMessage, ReplyMessage):
                with pytest.raises(DecodeError):
                    decode(good[:place] + hostile, kind)
    grown_kb = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
    assert grown_kb < 100_000
