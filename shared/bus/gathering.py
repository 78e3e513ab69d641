"""How a consumer gathers a batch: what waits at once, and a little more that is on its way."""

from __future__ import annotations

import asyncio
import time

from shared.bus.claims import INTERACTIVE, Claim, Claims, Taken


class Gathering:
    """Takes new messages in batches.

    Args:
        claims: what takes them.
        max_batch: messages taken at once.
        max_wait_s: how long a batch that isn't full may wait for more.
        block_s: how long to wait for a first message.
    """

    def __init__(self, claims: Claims, max_batch: int, max_wait_s: float, block_s: float) -> None:
        self._claims = claims
        self._max_batch, self._max_wait_s, self._block_s = max_batch, max_wait_s, block_s
        self._quiet = False  # messages come one by one: it pays to block first, and not to wait

    async def gather(
        self, *, may_block: bool, most: int | None = None, block_s: float | None = None
    ) -> Taken:
        """As many messages as wait, at most `most` (by default `max_batch`); interactive ones by
        themselves, at once.

        Polls instead of blocking for milliseconds: on an idle server a short block takes as long as
        the server's timer.

        Args:
            block_s: wait so long for a first message, if that is shorter than usual.
        """
        most = self._max_batch if most is None else most
        taken = Taken([], set(), 0)
        unchecked: set[bytes] = set()
        if not (self._quiet and may_block):
            taken = await self._claims.take(most)
        if not taken.claims:
            claims: list[Claim] = []
            if may_block:
                usual_s = self._block_s
                claims = await self._claims.wait(min(block_s or usual_s, usual_s))
            if not claims:
                return taken
            taken = Taken(claims, set(), 0)
            unchecked = {claim.job_id for claim in claims}
        woken = bool(unchecked)
        end = time.monotonic() + self._max_wait_s
        while unchecked or (_room(taken, most) and time.monotonic() < end):
            room = _room(taken, most)
            if room and self._max_wait_s and not self._quiet:
                await asyncio.sleep(self._max_wait_s / 2)
            more = await self._claims.take(room, unchecked)
            unchecked = set()
            taken = Taken(taken.claims + more.claims, taken.cancelled | more.cancelled, more.now_ms)
            if not more.claims:
                break
            self._quiet = False
        self._quiet = woken and len(taken.claims) == 1
        return taken


def _room(taken: Taken, most: int) -> int:
    """How many more messages the batch may take: none beside an interactive one."""
    if any(claim.stream == INTERACTIVE for claim in taken.claims):
        return 0
    return max(most - len(taken.claims), 0)
