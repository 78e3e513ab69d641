"""Heartbeats: how a consumer shows that it lives, and how others read it."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from typing import Protocol

import msgspec
from redis.asyncio import Redis

from shared.bus import keys, scripts
from shared.bus.records import LiveAgent
from shared.bus.workload import Workload
from shared.errors import MALFORMED

HEARTBEAT_INTERVAL_S = 2.0
_KEPT_S = 10

logger = logging.getLogger(__name__)


class Consuming(Protocol):
    """What a consumer tells of itself; see `Consumer` and `LiveAgent`."""

    agent: str
    worker: str
    name: str
    identity: str
    max_batch: int
    messages: int
    failures: int
    redelivered: int
    retried: int
    dead_lettered: int
    parked: int
    late: int
    handed_back: int
    too_new: int
    work: Workload
    started_at_s: float
    last_batch_at_s: float | None
    caches: Callable[[], Mapping[str, tuple[int, int]]]

    @property
    def in_flight(self) -> int: ...

    @property
    def left(self) -> int: ...


def presence_of(consumer: Consuming, ready: bool) -> LiveAgent:
    """The consumer's heartbeat as of now."""
    busy_share, messages_per_batch = consumer.work.lately()
    return LiveAgent(
        agent=consumer.agent,
        worker=consumer.worker,
        consumer=consumer.name,
        identity=consumer.identity,
        in_flight=consumer.in_flight,
        processed=consumer.messages,
        failures=consumer.failures,
        batches=consumer.work.batches,
        started_at_s=consumer.started_at_s,
        last_batch_at_s=consumer.last_batch_at_s,
        ready=ready,
        busy_share=busy_share,
        batch_fill=messages_per_batch / consumer.max_batch,
        redelivered=consumer.redelivered,
        retried=consumer.retried,
        dead_lettered=consumer.dead_lettered,
        parked=consumer.parked,
        late=consumer.late,
        handed_back=consumer.handed_back,
        too_new=consumer.too_new,
        left=consumer.left,
        caches=dict(consumer.caches()),
    )


async def show(redis: Redis, presence: LiveAgent) -> None:
    """Publish one heartbeat; it vanishes by itself soon after the last one."""
    await scripts.HEARTBEAT(
        redis,
        [keys.heartbeat(presence.consumer), keys.AGENTS],
        [presence.consumer, msgspec.msgpack.encode(presence), _KEPT_S],
    )


async def vanish(redis: Redis, consumer: str) -> None:
    """Take the last heartbeat away: this consumer has stopped."""
    pipeline = redis.pipeline(transaction=False)
    pipeline.delete(keys.heartbeat(consumer))
    pipeline.srem(keys.AGENTS, consumer)
    await pipeline.execute()


def read_heartbeat(payload: bytes) -> LiveAgent | None:
    """None, and a line in the log, for one that can't be read."""
    try:
        return msgspec.msgpack.decode(payload, type=LiveAgent)
    except MALFORMED as error:
        logger.warning("a heartbeat that can't be read: %s", error)
        return None
