"""Asking agents: coalescing, asking again, duplicates, failures."""

from __future__ import annotations

import asyncio

import pytest

from broker.agents_client import AgentsClient
from shared.contracts.messages import Failure, ReplyMessage, RequestMessage
from shared.contracts.skills import EmbedTexts, ImagineText, Result, TextImagined
from shared.errors import ItemError, TransientError
from shared.settings import Settings
from tests.unit.broker.fake_bus import FakeBus

SETTINGS = Settings(ask_timeout_s=0.04, ask_attempts=3)
BODY = ImagineText(modification_text="make it red")


def echo(request: RequestMessage) -> Result:
    assert isinstance(request.body, ImagineText)
    return TextImagined(edits=(), captions=(request.body.modification_text,))


async def test_requests_of_one_tick_leave_in_one_send() -> None:
    bus = FakeBus(echo)
    async with AgentsClient(bus, "run", 1, SETTINGS) as agents:
        answers = await asyncio.gather(
            *(agents.ask("q", "imagine", str(n), ImagineText(f"text {n}")) for n in range(5))
        )
    assert [answer.captions for answer in answers] == [(f"text {n}",) for n in range(5)]
    assert bus.sends == [[f"run/1/q/imagine/{n}" for n in range(5)]]


async def test_more_requests_than_a_stream_may_hold_leave_in_parts() -> None:
    bus = FakeBus(echo)
    settings = Settings(ask_timeout_s=5.0, queue_limit=12)
    async with AgentsClient(bus, "run", 1, settings) as agents:
        await asyncio.gather(
            *(agents.ask("q", "imagine", str(n), ImagineText(f"text {n}")) for n in range(7))
        )
    assert [len(sent) for sent in bus.sends] == [3, 3, 1]


async def test_a_lost_message_is_asked_again_under_the_same_id() -> None:
    def lose_first(request: RequestMessage, reply: ReplyMessage) -> list[ReplyMessage]:
        return [] if request.attempt == 1 else [reply]

    bus = FakeBus(echo, lose_first)
    async with AgentsClient(bus, "run", 1, SETTINGS) as agents:
        await agents.ask("q", "imagine", "0", BODY)
    assert bus.sends == [["run/1/q/imagine/0"], ["run/1/q/imagine/0"]]
    assert [request.attempt for request in bus.requests] == [1, 2]
    assert agents.asked_again == 1


async def test_a_request_nobody_answers_fails_after_all_attempts() -> None:
    bus = FakeBus(echo, lambda request, reply: [])
    async with AgentsClient(bus, "run", 1, SETTINGS) as agents:
        with pytest.raises(TransientError, match=r"imagination agent.*no answer.*3 times"):
            await agents.ask("q", "imagine", "0", BODY)
    assert len(bus.sends) == 3


async def test_duplicate_and_unknown_replies_are_counted_and_ignored() -> None:
    def twice(request: RequestMessage, reply: ReplyMessage) -> list[ReplyMessage]:
        stranger = ReplyMessage(message_id="x", worker="w", body=TextImagined((), ("other",)))
        return [stranger, reply, reply]

    bus = FakeBus(echo, twice)
    async with AgentsClient(bus, "run", 1, SETTINGS) as agents:
        answer = await agents.ask("q", "imagine", "0", BODY)
        await agents.ask("q", "imagine", "1", BODY)
    assert answer == TextImagined((), ("make it red",))
    assert agents.duplicates >= 3


async def test_a_retryable_failure_is_asked_again_and_a_final_one_is_raised() -> None:
    def busy_once(request: RequestMessage) -> Result | Failure:
        if isinstance(request.body, EmbedTexts):
            return Failure("the engine knows no such image")
        return Failure("busy", retryable=True) if request.attempt == 1 else echo(request)

    bus = FakeBus(busy_once)
    async with AgentsClient(bus, "run", 1, Settings()) as agents:
        assert await agents.ask("q", "imagine", "0", BODY) == TextImagined((), ("make it red",))
        with pytest.raises(ItemError, match="knows no such image"):
            await agents.ask("q", "embed", "0", EmbedTexts(("a",)))
    assert len(bus.sends) == 3


async def test_redis_being_away_delays_a_request_and_a_broken_bus_fails_it() -> None:
    bus = FakeBus(echo)
    send, errors = bus.send, [TransientError("redis is away")]

    async def flaky(requests: list[RequestMessage], priority: str = "lo") -> None:
        if errors:
            raise errors.pop()
        await send(requests, "lo")

    bus.send = flaky  # type: ignore[method-assign, assignment]
    async with AgentsClient(bus, "run", 1, Settings()) as agents:
        await agents.ask("q", "imagine", "0", BODY)
        errors.append(RuntimeError("a bug"))  # type: ignore[arg-type]
        for part in ("1", "2"):
            with pytest.raises(TransientError, match="broke: a bug"):
                await agents.ask("q", "imagine", part, BODY)


async def test_closing_the_client_ends_every_wait() -> None:
    bus = FakeBus(echo, lambda request, reply: [])
    async with AgentsClient(bus, "run", 1, Settings()) as agents:
        waiting = asyncio.create_task(agents.ask("q", "imagine", "0", BODY))
        await asyncio.sleep(0)
    with pytest.raises(TransientError, match="closed"):
        await waiting
