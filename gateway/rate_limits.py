"""How many requests a second a caller may make, of all gateways together.

xr:rate:<caller>   hash   a caller's bucket: what is `left` in it, `at` which time of Redis's clock
"""

from __future__ import annotations

import asyncio
import logging
import math
import time
from collections import OrderedDict

from redis.asyncio import Redis
from redis.exceptions import RedisError

from gateway.errors import ApiError

_TAKE_ONE = """
local per_s, most = tonumber(ARGV[1]), tonumber(ARGV[2])
local clock = redis.call('TIME')
local now = clock[1] + clock[2] / 1000000
local bucket = redis.call('HMGET', KEYS[1], 'left', 'at')
local left, at = tonumber(bucket[1]) or most, tonumber(bucket[2]) or now
left = math.min(most, left + math.max(0, now - at) * per_s)
local wait_ms = 0
if left >= 1 then
  left = left - 1
else
  wait_ms = math.ceil(1000 * (1 - left) / per_s)
end
redis.call('HSET', KEYS[1], 'left', left, 'at', string.format('%.6f', now))
redis.call('PEXPIRE', KEYS[1], math.ceil(1000 * most / per_s))
return wait_ms
"""
_KEY = "xr:rate:"
_ANSWER_WITHIN_S = 0.5
_ALONE_S = 5.0
_MOST_BUCKETS = 10_000
_log = logging.getLogger(__name__)


class RateLimits:
    """A bucket of a second's requests per caller, that fills again at the allowed rate.

    The buckets are Redis's. While it does not answer, each gateway counts for itself: a limit that
    is too high for a while is better than no answer.
    """

    def __init__(self, redis: Redis, per_s: float) -> None:
        self._per_s = per_s
        self._take_one = redis.register_script(_TAKE_ONE)
        self._own = Buckets(per_s)
        self._alone_until_s = 0.0

    async def check(self, who: str) -> None:
        """Take one. Raises: ApiError: 429, with the time after which there is one again."""
        wait_s = await self._shared_wait_s(who)
        if wait_s is None:
            wait_s = self._own.take_one(who, time.monotonic())
        if wait_s > 0:
            detail = f"more than {self._per_s:g} requests a second"
            after_s = max(1, math.ceil(wait_s))
            raise ApiError(429, "too-many-requests", detail, retry_after_s=after_s)

    async def _shared_wait_s(self, who: str) -> float | None:
        """None: Redis does not say. It is not asked again at once, so that nobody waits for it."""
        if time.monotonic() < self._alone_until_s:
            return None
        try:
            async with asyncio.timeout(_ANSWER_WITHIN_S):
                arguments = [self._per_s, max(1.0, self._per_s)]
                wait_ms = await self._take_one(keys=[f"{_KEY}{who}"], args=arguments)
        except (RedisError, OSError, TimeoutError) as error:
            self._alone_until_s = time.monotonic() + _ALONE_S
            _log.warning("requests are counted by this gateway alone: Redis is away (%s)", error)
            return None
        return float(wait_ms) / 1000


class Buckets:
    """The same buckets in this process."""

    def __init__(self, per_s: float) -> None:
        self._per_s = per_s
        self._most = max(1.0, per_s)
        self._buckets: OrderedDict[str, tuple[float, float]] = OrderedDict()

    def take_one(self, who: str, now_s: float) -> float:
        """Seconds until there is one; 0 = it was taken."""
        left, at_s = self._buckets.pop(who, (self._most, now_s))
        left = min(self._most, left + (now_s - at_s) * self._per_s)
        allowed = left >= 1.0
        self._buckets[who] = (left - 1.0 if allowed else left, now_s)
        while len(self._buckets) > _MOST_BUCKETS:  # the ones seen last are kept
            self._buckets.popitem(last=False)
        return 0.0 if allowed else (1.0 - left) / self._per_s
