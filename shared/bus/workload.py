"""How much a consumer does: batches, their size and time, and how busy it was of late."""

from __future__ import annotations

import time
from bisect import bisect_left
from collections import deque
from collections.abc import Callable
from itertools import accumulate
from typing import NamedTuple

BATCH_SECONDS = (0.005, 0.02, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0, 300.0)
"""Upper bounds of the histogram of batch times; one more bucket takes what is longer."""
_LATELY_S = 30.0


class _Sample(NamedTuple):
    at_s: float
    busy_s: float
    batches: int
    messages: int


class Workload:
    """Counts of one consumer's batches since its start.

    Attributes:
        batches, messages: batches the handler was given, and the requests in them.
        last_ended_s: end of the last batch, on `clock`; None before the first.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self.batches = self.messages = 0
        self.last_ended_s: float | None = None
        self._clock = clock
        self._under_way = 0
        self._busy_since_s = 0.0
        self._busy_s = 0.0
        self._batches_s = 0.0
        self._counts = [0] * (len(BATCH_SECONDS) + 1)
        self._samples = deque([_Sample(clock(), 0.0, 0, 0)])

    @property
    def busy_s(self) -> float:
        """Seconds in which at least one batch was under way, up to now."""
        return self._busy_s + (self._clock() - self._busy_since_s if self._under_way else 0.0)

    def began(self) -> float:
        """A batch begins, perhaps beside others; hand the result to `ended`."""
        now_s = self._clock()
        if not self._under_way:
            self._busy_since_s = now_s
        self._under_way += 1
        return now_s

    def ended(self, messages: int, began_s: float) -> None:
        """The batch that began then is over; it had so many messages."""
        self.last_ended_s = self._clock()
        self._under_way -= 1
        if not self._under_way:
            self._busy_s += self.last_ended_s - self._busy_since_s
        took_s = self.last_ended_s - began_s
        self._batches_s += took_s
        self._counts[bisect_left(BATCH_SECONDS, took_s)] += 1
        self.batches += 1
        self.messages += messages

    def lately(self) -> tuple[float, float]:
        """Share of the time spent on batches in [0, 1], and messages per batch, of the last 30 s.

        To be asked every few seconds: each call is a sample for the later ones.
        """
        now = _Sample(self._clock(), self.busy_s, self.batches, self.messages)
        while len(self._samples) > 1 and self._samples[1].at_s <= now.at_s - _LATELY_S:
            self._samples.popleft()
        then = self._samples[0]
        self._samples.append(now)
        busy_share = (now.busy_s - then.busy_s) / max(now.at_s - then.at_s, 1e-9)
        fill = (now.messages - then.messages) / max(now.batches - then.batches, 1)
        return min(max(busy_share, 0.0), 1.0), fill

    def batch_seconds(self) -> tuple[list[tuple[str, int]], float]:
        """A Prometheus histogram: (upper bound, batches up to it), and the sum of all times."""
        bounds = [*(str(bound) for bound in BATCH_SECONDS), "+Inf"]
        return list(zip(bounds, accumulate(self._counts), strict=True)), self._batches_s
