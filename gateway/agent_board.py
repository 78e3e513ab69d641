"""Agents, queues and dead letters as the bus tells them."""

from __future__ import annotations

import datetime
import json
import time
from collections.abc import Sequence
from typing import Any, cast, get_args

import msgspec
from redis.asyncio import Redis
from redis.exceptions import NoPermissionError

from gateway.records import AgentView, DeadLetterView, WorkerView
from shared.bus import keys
from shared.bus.client import BusClient
from shared.bus.records import LiveAgent, SetAside
from shared.contracts.messages import RequestMessage, decode
from shared.contracts.skills import AgentName
from shared.errors import DecodeError, PermanentError
from shared.settings import Settings

MOST_DEAD_LETTERS = 1_000
_LONGEST_TEXT = 2_000
_MOST_ITEMS = 50
_SHORTEST_MEASURED_S = 1.0
_COUNTS = {
    "answered": "processed",
    "failures": "failures",
    "batches": "batches",
    "redelivered": "redelivered",
    "retried": "retried",
    "dead_lettered": "dead_lettered",
    "parked": "parked",
    "late": "late",
    "handed_back": "handed_back",
    "too_new": "too_new",
    "left": "left",
}
"""Name of a count -> the heartbeat's field."""


class RedisAgentBoard:
    """`gateway.ports.AgentBoard` over the message bus."""

    def __init__(self, redis: Redis, settings: Settings) -> None:
        # The board sends no requests, so nothing ever arrives at this reply list.
        self._bus = BusClient(redis, keys.reply("gateway"), settings.queue_limit)
        self._rates: dict[str, float] = {}
        self._seen: dict[str, tuple[float, dict[str, int]]] = {}

    async def agents(self) -> list[AgentView]:
        living = await self._bus.live_agents()
        views = []
        for agent in get_args(AgentName):
            depth = await self._bus.depth(agent)
            workers = [worker for worker in living if worker.agent == agent]
            views.append(
                AgentView(
                    agent=agent,
                    workers=[worker.worker for worker in workers],
                    waiting=depth.waiting,
                    pending=depth.pending,
                    dead=depth.dead,
                    parked=depth.parked,
                    oldest_age_s=round(depth.oldest_age_s, 3),
                    answered_per_s=self._rate(agent, workers),
                    details=[_worker(worker) for worker in workers],
                )
            )
        return views

    def _rate(self, agent: str, workers: Sequence[LiveAgent]) -> float | None:
        """Messages answered a second since somebody asked before, by workers alive then and now."""
        now_s = time.monotonic()
        counts = {worker.consumer: worker.processed for worker in workers}
        before_s, before = self._seen.get(agent, (now_s, {}))
        if not before or now_s - before_s >= _SHORTEST_MEASURED_S:
            self._seen[agent] = (now_s, counts)
        if now_s - before_s < _SHORTEST_MEASURED_S:
            return self._rates.get(agent)
        answered = sum(
            max(0, count - before.get(consumer, count)) for consumer, count in counts.items()
        )
        self._rates[agent] = round(answered / (now_s - before_s), 2)
        return self._rates[agent]

    async def dead_letters(self, agent: str) -> list[DeadLetterView]:
        letters = await self._bus.dead_letters(cast(AgentName, agent), MOST_DEAD_LETTERS)
        return [_view(letter) for letter in letters]

    async def retry(self, agent: str, entry_id: str) -> bool:
        try:
            await self._bus.retry_dead_letter(cast(AgentName, agent), entry_id)
        except PermanentError:  # "no such dead letter" is all it raises of this kind
            return False
        return True

    async def redis_memory(self) -> tuple[int, int] | None:
        try:
            found = await self._bus.redis.info("memory")
        except NoPermissionError:
            return None
        return int(found["used_memory"]), int(found["maxmemory"])


def _worker(beat: LiveAgent) -> WorkerView:
    return WorkerView(
        worker=beat.worker,
        ready=beat.ready,
        model=", ".join(_checkpoints(beat.identity)),
        in_flight=beat.in_flight,
        busy_share=round(beat.busy_share, 3),
        batch_fill=round(beat.batch_fill, 3),
        counts={name: getattr(beat, at) for name, at in _COUNTS.items()},
        caches=beat.caches,
    )


def _checkpoints(identity: str) -> list[str]:
    """The names of the checkpoints in a heartbeat's identity; the plain text where it has none."""
    try:
        fields = json.loads(identity)
    except ValueError:
        return [identity] if identity else []
    if not isinstance(fields, dict):
        return [identity]
    named = [str(fields["checkpoint"])] if fields.get("checkpoint") else []
    # "prompt.caption": "<digest> to <checkpoint>@<revision>:..."
    served = [
        str(value).rpartition(" to ")[2].partition("@")[0]
        for name, value in fields.items()
        if name.startswith("prompt.") and " to " in str(value)
    ]
    return list(dict.fromkeys([*named, *served]))


def _view(letter: SetAside) -> DeadLetterView:
    at = datetime.datetime.fromtimestamp(letter.at_s, datetime.UTC)
    known = {
        "entry_id": letter.entry_id,
        "reason": _cut(letter.reason),
        "deliveries": letter.deliveries,
        "job_id": _cut(letter.job_id),
        "at": at.isoformat(timespec="seconds"),
        "size_bytes": len(letter.payload),
    }
    try:
        message = decode(letter.payload, RequestMessage)
    except DecodeError as error:
        unreadable = {"undecodable": _cut(str(error)), "hex": letter.payload[:200].hex()}
        return DeadLetterView(**known, message=unreadable)
    return DeadLetterView(
        **known,
        query_id=_cut(message.query_id),
        skill=type(message.body).__name__,
        message=_cut(msgspec.to_builtins(message)),
    )


def _cut(value: Any) -> Any:
    """`value` for reading: long texts, bytes and lists end where nobody reads on."""
    if isinstance(value, str) and len(value) > _LONGEST_TEXT:
        return f"{value[:_LONGEST_TEXT]}... ({len(value)} characters)"
    if isinstance(value, list | tuple):
        kept = [_cut(item) for item in value[:_MOST_ITEMS]]
        return kept if len(value) <= _MOST_ITEMS else [*kept, f"... ({len(value)} items)"]
    if isinstance(value, dict):
        kept_items = list(value.items())[:_MOST_ITEMS]
        return {_cut(str(name)): _cut(item) for name, item in kept_items}
    return value
