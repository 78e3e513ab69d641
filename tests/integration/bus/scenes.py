"""Requests, handlers and waiting for the tests of the bus."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable, Sequence
from contextlib import AbstractAsyncContextManager
from typing import Any

from shared.bus import keys
from shared.bus.client import BusClient
from shared.bus.consumer import Answer, Consumer
from shared.contracts.messages import ReplyMessage, RequestMessage
from shared.contracts.skills import EmbedTexts, TextsEmbedded, Vector

REPLY_TO = keys.reply("tests")
LEASE_S = 0.3
"""Short, so that leases lapse while a test watches."""


Start = Callable[..., AbstractAsyncContextManager[Consumer]]
"""The fixture `start`: runs a consumer inside `async with`."""


def request(message_id: str, text: str = "", job_id: str = "job", **fields: Any) -> RequestMessage:
    """A request to the similarity agent."""
    return RequestMessage(
        message_id=message_id,
        job_id=job_id,
        query_id="1",
        reply_to=REPLY_TO,
        body=EmbedTexts(texts=(text or message_id,)),
        **fields,
    )


def text_of(message: RequestMessage) -> str:
    assert isinstance(message.body, EmbedTexts)
    return message.body.texts[0]


async def echo(requests: Sequence[RequestMessage]) -> list[Answer]:
    """Answers every request with its own text."""
    return [TextsEmbedded(results=(Vector(text_of(asked).encode()),)) for asked in requests]


class Recorder:
    """A handler that notes the texts of each batch and can be held in the middle of one."""

    def __init__(self, inner: Callable[..., Awaitable[list[Answer]]] = echo) -> None:
        self.batches: list[list[str]] = []
        self.inner = inner
        self.entered = asyncio.Event()
        self.released = asyncio.Event()
        self.released.set()

    async def __call__(self, requests: Sequence[RequestMessage]) -> list[Answer]:
        self.batches.append([text_of(asked) for asked in requests])
        self.entered.set()
        await self.released.wait()
        return await self.inner(requests)


async def abandon(consumer: Consumer) -> None:
    """Let a consumer vanish with its batch in hand, as a killed process does."""
    task = asyncio.create_task(consumer.run())
    handler = consumer._handler
    assert isinstance(handler, Recorder)
    await asyncio.wait_for(handler.entered.wait(), 5)
    task.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await task


async def collect(client: BusClient, count: int, timeout_s: float = 10.0) -> list[ReplyMessage]:
    """The next `count` replies."""
    replies: list[ReplyMessage] = []
    async with asyncio.timeout(timeout_s):
        while len(replies) < count:
            replies += await client.receive(1.0)
    return replies


async def until(condition: Callable[[], Awaitable[bool] | bool], timeout_s: float = 10.0) -> None:
    """Return once the condition holds."""
    async with asyncio.timeout(timeout_s):
        while True:
            held = condition()
            if held if isinstance(held, bool) else await held:
                return
            await asyncio.sleep(0.005)
