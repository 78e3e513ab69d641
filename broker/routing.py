"""Sends what is asked about an image to the question worker that has seen it before.

A worker keeps what it knows of images it has worked on (a vision encoder's output, an engine's
prefix cache): asked by others about the same image, it starts anew. So each image has one worker,
by rendezvous hashing of its content: when a worker comes or goes, only its own images move.
It is a preference, see `shared.bus.preferences`: nothing waits for a worker that is gone.
"""

from __future__ import annotations

import asyncio
import hashlib
import logging
import time
from collections.abc import Awaitable, Callable, Sequence
from typing import Protocol

from msgspec.structs import replace
from redis.exceptions import RedisError

from shared.bus.records import LiveAgent
from shared.contracts.skills import (
    Answers,
    CandidatesVerified,
    ItemFailure,
    Request,
    Result,
    VerifyImages,
)
from shared.errors import ItemError, TransientError
from shared.tasks import together

_ROSTER_KEPT_S = 2.0

logger = logging.getLogger(__name__)


class AskWithPreference(Protocol):
    """`AgentsClient.ask`."""

    async def __call__(
        self, query_id: str, step: str, part: str, body: Request, *, prefers: str = ""
    ) -> Result: ...


class Routing:
    """An `Ask` that splits questions about images among the living question workers.

    Fewer than two of them: everything is asked as it is.

    Args:
        ask: what asks each part.
        live_agents: who is alive; asked at most every two seconds.
        content_of: row of the run's gallery -> hash of the image's content.
    """

    def __init__(
        self,
        ask: AskWithPreference,
        live_agents: Callable[[], Awaitable[Sequence[LiveAgent]]],
        content_of: Callable[[int], str],
    ) -> None:
        self._ask = ask
        self._live_agents = live_agents
        self._content_of = content_of
        self._consumers: tuple[str, ...] = ()
        self._look_at_s = 0.0
        self._looking = asyncio.Lock()

    async def __call__(self, query_id: str, step: str, part: str, body: Request) -> Result:
        """As `Ask`; the answers are those of the whole request, in its order."""
        if not isinstance(body, VerifyImages):
            return await self._ask(query_id, step, part, body)
        consumers = await self._living()
        if len(consumers) < 2:
            return await self._ask(query_id, step, part, body)
        places_of: dict[str, list[int]] = {}
        for place, row in enumerate(body.rows):
            consumer = preferred(self._content_of(row), consumers)
            places_of.setdefault(consumer, []).append(place)
        shares = await together(
            [
                self._ask_share(query_id, step, f"{part}.{number}", body, places, consumer)
                for number, (consumer, places) in enumerate(places_of.items())
            ]
        )
        results = {place: one for share in shares for place, one in share.items()}
        return CandidatesVerified(tuple(results[place] for place in range(len(body.rows))))

    async def _ask_share(
        self,
        query_id: str,
        step: str,
        part: str,
        body: VerifyImages,
        places: Sequence[int],
        consumer: str,
    ) -> dict[int, Answers | ItemFailure]:
        share = replace(body, rows=tuple(body.rows[place] for place in places))
        answer = await self._ask(query_id, step, part, share, prefers=consumer)
        if not isinstance(answer, CandidatesVerified):
            raise ItemError(f"{step} was answered by a {type(answer).__name__}")
        if len(answer.results) != len(places):
            raise ItemError(f"{len(answer.results)} answers about {len(places)} candidates")
        return dict(zip(places, answer.results, strict=True))

    async def _living(self) -> tuple[str, ...]:
        """The question agent's consumers that take requests, by name."""
        async with self._looking:
            now = time.monotonic()
            if now >= self._look_at_s:
                self._look_at_s = now + _ROSTER_KEPT_S
                try:
                    roster = await self._live_agents()
                except (RedisError, TransientError) as error:
                    logger.debug("who is alive is not known: %s", error)
                else:
                    living = (one for one in roster if one.agent == "question" and one.ready)
                    self._consumers = tuple(sorted(one.consumer for one in living))
        return self._consumers


def preferred(content: str, consumers: Sequence[str]) -> str:
    """The consumer of an image: the one with the highest hash together with its content's."""
    return max(consumers, key=lambda consumer: (_weight(content, consumer), consumer))


def _weight(content: str, consumer: str) -> bytes:
    return hashlib.blake2b(f"{content} {consumer}".encode(), digest_size=8).digest()
