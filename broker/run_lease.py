"""One live owner per run: a copy waits for the owner's lease to end instead of taking over."""

from __future__ import annotations

import asyncio
import logging
import uuid
from collections.abc import Awaitable, Callable

from redis.asyncio import Redis
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import TimeoutError as RedisTimeoutError

from broker.run_keys import epoch_key, owner_key
from shared.errors import TransientError

logger = logging.getLogger(__name__)

_RENEW = """
-- KEYS[1] = owner key; ARGV = me, lease in ms.   1 = still ours, 0 = somebody else's
local owner = redis.call('GET', KEYS[1])
if owner and owner ~= ARGV[1] then return 0 end
redis.call('SET', KEYS[1], ARGV[1], 'PX', ARGV[2])
return 1"""

_RELEASE = """
-- KEYS[1] = owner key; ARGV = me
if redis.call('GET', KEYS[1]) == ARGV[1] then return redis.call('DEL', KEYS[1]) end
return 0"""


class LeaseLostError(TransientError):
    """This process was frozen past its lease and somebody else owns the run: stop at once."""


class RunLease:
    """The right to work on one run, renewed while held."""

    def __init__(self, redis: Redis, run_id: str, lease_s: float = 10.0) -> None:
        self.me = uuid.uuid4().hex
        self._redis = redis
        self._run_id = run_id
        self._lease_ms = max(1, round(lease_s * 1000))

    async def acquire(
        self, is_over: Callable[[], Awaitable[bool]], poll_s: float = 0.5
    ) -> int | None:
        """Wait until no live owner has the run.

        Args:
            is_over: whether the run has ended meanwhile.
        Returns: the epoch, 1-based, counting the owners of this run; None when it is over.
        """
        told = False
        while not await self._redis.set(
            owner_key(self._run_id), self.me, nx=True, px=self._lease_ms
        ):
            if await is_over():
                return None
            if not told:
                logger.info("run %s has a live owner: waiting for its lease to end", self._run_id)
                told = True
            await asyncio.sleep(poll_s)
        return int(await self._redis.incr(epoch_key(self._run_id)))

    async def renew(self) -> None:
        """Raises: LeaseLostError: somebody else owns the run."""
        if not await self._script(_RENEW, self._lease_ms):
            raise LeaseLostError(f"run {self._run_id} was taken over by another coordinator")

    async def keep(self) -> None:
        """Renew until cancelled. Redis being away for a while is waited out.

        Raises: LeaseLostError: somebody else owns the run.
        """
        while True:
            await asyncio.sleep(self._lease_ms / 4000)
            try:
                await self.renew()
            except (RedisConnectionError, RedisTimeoutError) as error:
                logger.warning("cannot renew the lease of run %s: %s", self._run_id, error)

    async def release(self) -> None:
        """Let the next owner in; nothing happens when the lease is no longer ours."""
        await self._script(_RELEASE)

    async def _script(self, script: str, *arguments: int) -> int:
        answer = self._redis.eval(script, 1, owner_key(self._run_id), self.me, *arguments)
        return int(await answer)
