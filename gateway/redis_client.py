"""The gateway's Redis connection: it fails fast, as somebody waits for each answer."""

from __future__ import annotations

from redis.asyncio import Redis
from redis.asyncio.retry import Retry
from redis.backoff import ConstantBackoff

from shared.errors import ConfigurationError
from shared.settings import Settings

_ANSWER_WITHIN_S = 3.0


def gateway_redis(settings: Settings) -> Redis:
    """An asyncio client that connects when first used and tells within seconds when it cannot.

    Raises: ConfigurationError: XR_REDIS_URL is no Redis URL.
    """
    try:
        return Redis.from_url(
            settings.redis_url,
            socket_timeout=_ANSWER_WITHIN_S,
            socket_connect_timeout=_ANSWER_WITHIN_S,
            retry=Retry(ConstantBackoff(0.01), 1),  # a pooled connection may be from before a restart
        )
    except ValueError as error:
        raise ConfigurationError(f"XR_REDIS_URL: {error}") from error
