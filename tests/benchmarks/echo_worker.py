"""`python -m tests.benchmarks.echo_worker bus|plain REDIS_URL`: answers with what it got."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Sequence

from redis import Redis

from shared.bus.connection import connect
from shared.bus.consumer import Consumer
from shared.contracts.messages import RequestMessage
from shared.contracts.skills import ImagineText, TextImagined

AGENT = "imagination"
PLAIN_REQUESTS, PLAIN_REPLIES = "plain:requests", "plain:replies"


async def echo(messages: Sequence[RequestMessage]) -> list[TextImagined]:
    """One answer per message, as large as the message."""
    answers = []
    for message in messages:
        assert isinstance(message.body, ImagineText)
        answers.append(TextImagined(edits=(), captions=(message.body.modification_text,)))
    return answers


async def serve_bus(url: str) -> None:
    redis = connect(url)
    await Consumer(redis, AGENT, echo, worker="echo").run()


def serve_plain(url: str) -> None:
    """The least that any queue on Redis costs: a list each way, one message at a time."""
    with Redis.from_url(url, socket_timeout=None) as redis:
        while True:
            taken = redis.brpop([PLAIN_REQUESTS])
            assert isinstance(taken, tuple)
            redis.lpush(PLAIN_REPLIES, taken[1])


if __name__ == "__main__":
    if sys.argv[1] == "bus":
        asyncio.run(serve_bus(sys.argv[2]))
    else:
        serve_plain(sys.argv[2])
