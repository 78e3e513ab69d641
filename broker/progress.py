"""How far a run is: its phases, counts, and the rate of late."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable
from typing import Any

_RATE_WINDOW_S = 15.0


class Progress:
    """The phases of a run, the last of which is under way."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._phases: list[dict[str, Any]] = []
        self._began_s = clock()
        self._samples: deque[tuple[float, int]] = deque()

    @property
    def phase(self) -> str:
        return str(self._phases[-1]["phase"]) if self._phases else ""

    def begin(self, phase: str, total: int, done: int = 0, failed: int = 0) -> None:
        """Start the next phase; `done` of it may be there already (a resumed run)."""
        self._close_phase()
        self._began_s = self._clock()
        self._samples = deque([(self._began_s, done)])
        self._phases.append(
            {"phase": phase, "done": done, "total": total, "failed": failed, "seconds": 0.0}
        )

    def update(self, done: int, total: int, failed: int) -> None:
        """The counts of the phase under way; they never fall."""
        phase = self._phases[-1]
        phase.update(done=max(done, phase["done"]), total=total, failed=max(failed, 0))
        now = self._clock()
        self._samples.append((now, phase["done"]))
        while self._samples[0][0] < now - _RATE_WINDOW_S:
            self._samples.popleft()

    def end(self) -> None:
        """The last phase is over."""
        self._close_phase()

    def snapshot(self) -> list[dict[str, Any]]:
        """One entry per phase: phase, done, total, failed, rate_per_s, seconds."""
        if not self._phases:
            return []
        self._phases[-1]["seconds"] = self._seconds()
        rates = [0.0] * (len(self._phases) - 1) + [self._rate_per_s()]
        return [
            {**phase, "seconds": round(phase["seconds"], 1), "rate_per_s": round(rate, 2)}
            for phase, rate in zip(self._phases, rates, strict=True)
        ]

    def _close_phase(self) -> None:
        if self._phases:
            self._phases[-1]["seconds"] = self._seconds()

    def _seconds(self) -> float:
        return self._clock() - self._began_s

    def _rate_per_s(self) -> float:
        since_s, done = self._samples[0]
        return (self._samples[-1][1] - done) / max(self._clock() - since_s, 0.001)
