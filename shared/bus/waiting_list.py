"""Remembers since when messages wait for somebody else, up to a bound of time."""

from __future__ import annotations

import time
from collections.abc import Callable


class WaitingList:
    """Entry ids and when each was first seen. Forgets those not asked about for long."""

    def __init__(self, patience_s: float, clock: Callable[[], float] = time.monotonic) -> None:
        self._patience_s = patience_s
        self._clock = clock
        self._first_seen_s: dict[bytes, float] = {}
        self._clean_at_s = clock() + patience_s

    def __len__(self) -> int:
        return len(self._first_seen_s)

    def is_over(self, entry_id: bytes) -> bool:
        """Whether this one was first asked about longer ago than the patience; then forgets it."""
        now = self._clock()
        if now >= self._clean_at_s:
            self._forget_before(now - 2 * self._patience_s)
            self._clean_at_s = now + self._patience_s
        since_s = self._first_seen_s.setdefault(entry_id, now)
        if now - since_s <= self._patience_s:
            return False
        del self._first_seen_s[entry_id]
        return True

    def _forget_before(self, time_s: float) -> None:
        kept = {entry: at_s for entry, at_s in self._first_seen_s.items() if at_s >= time_s}
        self._first_seen_s = kept
