"""Heartbeats: how a consumer shows that it lives, and how others read it."""

from __future__ import annotations

import logging

import msgspec
from redis.asyncio import Redis

from shared.bus import keys, scripts
from shared.bus.records import LiveAgent
from shared.errors import MALFORMED

HEARTBEAT_INTERVAL_S = 2.0
_KEPT_S = 10

logger = logging.getLogger(__name__)


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
