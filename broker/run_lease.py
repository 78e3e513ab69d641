"""One live owner per run: a copy waits for the owner's lease to end instead of taking over."""

from __future__ import annotations

import asyncio
import logging
import uuid
from collections.abc import Awaitable, Callable

from redis.asyncio import Redis

from broker.run_keys import epoch_key, owner_key
from shared.bus.connection import Outage, keep_trying
from shared.errors import TransientError

logger = logging.getLogger(__name__)

_RENEW = """
-- KEYS[1] = owner key; ARGV = me, lease in ms.   1 = still ours, 0 = somebody else's
local owner = redis.call('GET', KEYS[1])
if owner and owner ~= ARGV[1] then return 0 end
redis.call('SET', KEYS[1], ARGV[1], 'PX', ARGV[2])
return 1"""

_NEXT_EPOCH = """
-- KEYS[1] = epoch key; ARGV = the last epoch that the run's folder knows of
-- (Redis may have been emptied since)
local last = tonumber(redis.call('GET', KEYS[1]) or 0)
local epoch = math.max(last, tonumber(ARGV[1])) + 1
redis.call('SET', KEYS[1], epoch)
return epoch"""

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
        self._outage = Outage(redis)

    async def acquire(
        self,
        is_over: Callable[[], Awaitable[bool]],
        last_epoch: Callable[[], int] = lambda: 0,
        poll_s: float = 0.5,
    ) -> int | None:
        """Wait until no live owner has the run, and until Redis is there.

        Args:
            is_over: whether the run has ended meanwhile.
            last_epoch: the last owner's epoch as the run's folder has it, 0 = none; asked once the
                run is ours.
        Returns: the epoch, 1-based, counting the owners of this run; None when it is over.
        """
        told = False
        while not await keep_trying(self._outage, self._take):
            if await is_over():
                return None
            if not told:
                logger.info("run %s has a live owner: waiting for its lease to end", self._run_id)
                told = True
            await asyncio.sleep(poll_s)
        last = last_epoch()
        return await keep_trying(self._outage, lambda: self._next_epoch(last))

    async def renew(self) -> None:
        """Raises: LeaseLostError: somebody else owns the run."""
        if not await self._on_the_owner(_RENEW, self._lease_ms):
            raise LeaseLostError(f"run {self._run_id} was taken over by another coordinator")

    async def keep(self) -> None:
        """Renew until cancelled. Redis being away for a while is waited out.

        Raises: LeaseLostError: somebody else owns the run.
        """
        while True:
            await asyncio.sleep(self._lease_ms / 4000)
            # As soon as Redis is back: it may have been emptied, and the run seem to be nobody's.
            await keep_trying(self._outage, self.renew)

    async def release(self) -> None:
        """Let the next owner in; nothing happens when the lease is no longer ours."""
        await self._on_the_owner(_RELEASE)

    async def _take(self) -> bool:
        owner = owner_key(self._run_id)
        if await self._redis.set(owner, self.me, nx=True, px=self._lease_ms):
            return True
        # It may be ours: the answer to a former attempt was lost with the connection.
        return bool(await self._redis.get(owner) == self.me.encode())

    async def _next_epoch(self, last: int) -> int:
        return int(await self._redis.eval(_NEXT_EPOCH, 1, epoch_key(self._run_id), last))

    async def _on_the_owner(self, script: str, *arguments: int) -> int:
        answer = self._redis.eval(script, 1, owner_key(self._run_id), self.me, *arguments)
        return int(await answer)
