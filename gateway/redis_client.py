"""The gateway's Redis connections: they fail fast, as somebody waits for each answer."""

from __future__ import annotations

from typing import Any

import redis
import redis.asyncio
import redis.asyncio.retry
import redis.retry
from redis.backoff import ConstantBackoff

from shared.bus.connection import wrong_url
from shared.settings import Settings

_ANSWER_WITHIN_S = 3.0


def gateway_redis(settings: Settings) -> redis.asyncio.Redis:
    """An asyncio client that connects when first used and tells within seconds when it cannot.

    Raises: ConfigurationError: XR_REDIS_URL is no Redis URL.
    """
    # Once more at once: a pooled connection may be from before a restart of Redis.
    retry = redis.asyncio.retry.Retry(ConstantBackoff(0.01), 1)
    try:
        return redis.asyncio.Redis.from_url(settings.redis_url, retry=retry, **_options())
    except ValueError:
        raise wrong_url() from None


def blocking_redis(settings: Settings) -> redis.Redis:
    """The same for code that blocks (RQ); safe to share between threads."""
    retry = redis.retry.Retry(ConstantBackoff(0.01), 1)
    try:
        return redis.Redis.from_url(settings.redis_url, retry=retry, **_options())
    except ValueError:
        raise wrong_url() from None


def _options() -> dict[str, Any]:
    return {
        "socket_timeout": _ANSWER_WITHIN_S,
        "socket_connect_timeout": _ANSWER_WITHIN_S,
        "protocol": 2,
    }
