"""What a handler gets to see: batches, their order, their size, cancelled and late requests."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence

import pytest
from redis.asyncio import Redis

from shared.bus import keys
from shared.bus.client import BusClient
from shared.bus.consumer import Answer
from shared.contracts.messages import Failure, RequestMessage, encode
from shared.contracts.skills import ProposeQuestions, TextsEmbedded
from shared.errors import TransientError
from tests.integration.bus.scenes import (
    REPLY_TO,
    Recorder,
    Start,
    collect,
    echo,
    request,
    text_of,
    until,
)


async def test_waiting_requests_come_in_full_batches_and_the_rest_in_a_partial_one(
    client: BusClient, start: Start
) -> None:
    await client.send([request(str(n)) for n in range(10)])
    handler = Recorder()
    async with start(handler, max_batch=4):
        await collect(client, 10)
    assert handler.batches == [["0", "1", "2", "3"], ["4", "5", "6", "7"], ["8", "9"]]


async def test_a_partial_batch_waits_for_requests_that_keep_coming(
    client: BusClient, start: Start
) -> None:
    handler = Recorder()
    async with start(handler, max_wait_ms=200.0):
        await until(lambda: _is_listening(client))
        await client.send([request("a")])
        await client.send([request("b")])
        await client.send([request("c")])
        await collect(client, 3)
    assert handler.batches == [["a", "b", "c"]]


async def test_every_reply_carries_the_id_of_its_request_the_worker_and_the_answer(
    client: BusClient, start: Start
) -> None:
    ids = [f"run-1/0/q{n}/embed/{n}" for n in range(40)]
    await client.send([request(i) for i in ids])
    async with start(worker="host-7", max_batch=16):
        replies = await collect(client, 40)
    assert [reply.message_id for reply in replies] == ids
    assert {reply.worker for reply in replies} == {"host-7"}
    for reply in replies:
        assert isinstance(reply.body, TextsEmbedded)
        assert reply.body.results[0].values == reply.message_id.encode()  # type: ignore[union-attr]


async def test_interactive_requests_overtake_those_of_a_benchmark_and_share_no_batch_with_them(
    client: BusClient, start: Start
) -> None:
    await client.send([request(f"lo{n}") for n in range(4)], priority="lo")
    await client.send([request(f"hi{n}") for n in range(3)], priority="hi")
    handler = Recorder()
    async with start(handler, max_batch=2):
        await collect(client, 7)
    assert handler.batches == [["hi0", "hi1"], ["hi2"], ["lo0", "lo1"], ["lo2", "lo3"]]


async def test_a_batch_of_one_stays_one_when_both_streams_wake_the_consumer(
    client: BusClient, start: Start
) -> None:
    handler = Recorder()
    async with start(handler, max_batch=1):
        await until(lambda: _is_listening(client))
        await asyncio.gather(client.send([request("hi")], "hi"), client.send([request("lo")], "lo"))
        await collect(client, 2)
    assert sorted(handler.batches) == [["hi"], ["lo"]]


async def test_requests_go_to_the_agent_that_answers_them(client: BusClient, redis: Redis) -> None:
    propose = RequestMessage(
        message_id="p",
        job_id="job",
        query_id="1",
        reply_to=REPLY_TO,
        body=ProposeQuestions("make it red", (), (), (), 3),
    )
    await client.send([request("a"), propose, request("b")])
    assert (await client.depth("similarity")).waiting == 2
    assert (await client.depth("question")).waiting == 1
    assert (await client.depth("imagination")).waiting == 0


async def test_a_cancelled_job_is_answered_without_running_the_handler(
    client: BusClient, start: Start
) -> None:
    await client.send([request("a", job_id="stopped"), request("b", job_id="other")])
    await client.cancel("stopped")
    handler = Recorder()
    async with start(handler):
        replies = {reply.message_id: reply.body for reply in await collect(client, 2)}
    assert replies["a"] == Failure("cancelled")
    assert isinstance(replies["b"], TextsEmbedded)
    assert handler.batches == [["b"]]


async def test_cancelling_reaches_a_consumer_that_was_idle_and_can_be_undone(
    client: BusClient, start: Start
) -> None:
    await client.cancel("job")
    async with start() as consumer:
        await until(lambda: _is_listening(client))
        await client.send([request("a")])
        (reply,) = await collect(client, 1)
        assert reply.body == Failure("cancelled")
        await client.uncancel("job")
        await client.send([request("a")])
        (reply,) = await collect(client, 1)
        assert isinstance(reply.body, TextsEmbedded)
        assert consumer.work.batches == 1


async def test_a_request_nobody_waits_for_any_longer_is_not_worked_on(
    redis: Redis, client: BusClient, start: Start
) -> None:
    # Given a request that was queued ten seconds ago, by the clock of Redis, and one from just now
    seconds, _ = await redis.time()
    old = encode(request("late", expires_after_s=5))
    stream = keys.requests("similarity", "lo")
    await redis.xadd(stream, {"m": old, "j": "job"}, id=f"{(seconds - 10) * 1000}-0")
    await client.send([request("in time", expires_after_s=5)])
    handler = Recorder()
    async with start(handler):
        replies = {reply.message_id: reply.body for reply in await collect(client, 2)}
    # Then whoever does wait after all may ask again
    assert replies["late"] == Failure("nobody waits for the answer any longer", retryable=True)
    assert handler.batches == [["in time"]]


@pytest.mark.parametrize("jump_s", [3600, -3600])
async def test_no_message_is_lost_or_refused_when_the_clock_jumps_by_an_hour(
    client: BusClient, start: Start, monkeypatch: pytest.MonkeyPatch, jump_s: float
) -> None:
    real_time = time.time
    handler = Recorder()
    handler.released.clear()
    async with start(handler, max_batch=2) as consumer:
        await client.send([request(name, expires_after_s=60) for name in "abcd"])
        await handler.entered.wait()
        monkeypatch.setattr(time, "time", lambda: real_time() + jump_s)
        first_look_s = consumer._rescue_at_s
        await client.send([request("e", expires_after_s=60)])
        handler.released.set()
        replies = await collect(client, 5)
        # leases are still looked after
        await until(lambda: consumer._rescue_at_s > first_look_s)
    assert sorted(reply.message_id for reply in replies) == ["a", "b", "c", "d", "e"]
    assert all(isinstance(reply.body, TextsEmbedded) for reply in replies)
    assert (consumer.redelivered, consumer.late, consumer.failures) == (0, 0, 0)


async def test_a_failing_request_fails_alone(client: BusClient, start: Start) -> None:
    async def fails_on_bad(requests: list[RequestMessage]) -> list[object]:
        if any(text_of(asked) == "bad" for asked in requests):
            raise ValueError("cannot embed this")
        return list(await echo(requests))

    await client.send([request("a"), request("bad"), request("c")])
    async with start(Recorder(fails_on_bad)) as consumer:  # type: ignore[arg-type]
        replies = {reply.message_id: reply.body for reply in await collect(client, 3)}
    assert replies["bad"] == Failure("ValueError: cannot embed this", retryable=False)
    assert isinstance(replies["a"], TextsEmbedded)
    assert isinstance(replies["c"], TextsEmbedded)
    assert (consumer.work.batches, consumer.messages, consumer.failures) == (1, 3, 1)


async def test_the_one_request_on_which_a_batch_fails_is_found_by_halving(
    client: BusClient, start: Start
) -> None:
    async def fails_on_bad(requests: Sequence[RequestMessage]) -> list[Answer]:
        if any(text_of(asked) == "bad" for asked in requests):
            raise RuntimeError("device-side trouble")
        return await echo(requests)

    names = [f"good {n}" for n in range(31)]
    names.insert(20, "bad")
    await client.send([request(name) for name in names])
    handler = Recorder(fails_on_bad)
    async with start(handler, max_batch=32):
        replies = {reply.message_id: reply.body for reply in await collect(client, 32)}
    assert replies.pop("bad") == Failure("RuntimeError: device-side trouble")
    assert all(isinstance(body, TextsEmbedded) for body in replies.values())
    # The batch, then two halves of each that held it: not each of 32 alone
    assert len(handler.batches) == 1 + 2 * 5


async def test_a_passing_trouble_of_the_handler_is_marked_as_worth_asking_again(
    client: BusClient, start: Start
) -> None:
    async def busy(requests: list[RequestMessage]) -> list[object]:
        raise TransientError("the engine is full")

    await client.send([request("a")])
    async with start(busy) as consumer:
        (reply,) = await collect(client, 1)
        assert reply.body == Failure("TransientError: the engine is full", retryable=True)
        assert consumer.retried == 0
        # and is counted when somebody does
        await client.send([request("a", attempt=2)])
        await collect(client, 1)
        assert consumer.retried == 1


async def test_answers_of_the_wrong_number_or_kind_become_failures(
    client: BusClient, start: Start
) -> None:
    async def too_few(requests: list[RequestMessage]) -> list[object]:
        return list(await echo(requests[1:]))

    await client.send([request("a"), request("b")])
    async with start(too_few):
        replies = await collect(client, 2)
    expected = Failure("the handler returned 1 answers to 2 requests")
    assert [reply.body for reply in replies] == [expected, expected]

    async def nonsense(requests: list[RequestMessage]) -> list[object]:
        return ["text", *await echo(requests[1:])]

    await client.send([request("a"), request("b")])
    async with start(nonsense):
        replies = await collect(client, 2)
    assert replies[0].body == Failure("the handler answered with a str")
    assert isinstance(replies[1].body, TextsEmbedded)


async def _is_listening(client: BusClient) -> bool:
    """Is a consumer up and in its blocking read?"""
    clients = await client.redis.client_list()
    return any(entry["cmd"] == "xreadgroup" and "b" in entry["flags"] for entry in clients)
