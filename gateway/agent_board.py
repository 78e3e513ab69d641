"""Agents, queues and dead letters as the bus tells them."""

from __future__ import annotations

from typing import Any, cast, get_args

import msgspec
from redis.asyncio import Redis

from gateway.records import AgentView, DeadLetterView
from shared.bus import keys
from shared.bus.client import BusClient
from shared.bus.records import SetAside
from shared.contracts.messages import RequestMessage, decode
from shared.contracts.skills import AgentName
from shared.errors import DecodeError, PermanentError
from shared.settings import Settings


class RedisAgentBoard:
    """`gateway.ports.AgentBoard` over the message bus."""

    def __init__(self, redis: Redis, settings: Settings) -> None:
        # The gateway sends no requests, so nothing ever arrives at this reply list.
        self._bus = BusClient(redis, keys.reply("gateway"), settings.queue_limit)

    async def agents(self) -> list[AgentView]:
        living = await self._bus.live_agents()
        views = []
        for agent in get_args(AgentName):
            depth = await self._bus.depth(agent)
            views.append(
                AgentView(
                    agent=agent,
                    workers=[worker.worker for worker in living if worker.agent == agent],
                    waiting=depth.waiting,
                    pending=depth.pending,
                    dead=depth.dead,
                )
            )
        return views

    async def dead_letters(self, agent: str) -> list[DeadLetterView]:
        return [_view(letter) for letter in await self._bus.dead_letters(cast(AgentName, agent))]

    async def retry(self, agent: str, entry_id: str) -> bool:
        try:
            await self._bus.retry_dead_letter(cast(AgentName, agent), entry_id)
        except PermanentError:  # "no such dead letter" is all it raises of this kind
            return False
        return True


def _view(letter: SetAside) -> DeadLetterView:
    return DeadLetterView(
        entry_id=letter.entry_id, reason=letter.reason, message=_readable(letter.payload)
    )


def _readable(payload: bytes) -> dict[str, Any]:
    try:
        message: dict[str, Any] = msgspec.to_builtins(decode(payload, RequestMessage))
    except DecodeError as error:
        return {"undecodable": str(error), "hex": payload[:200].hex()}
    return message
