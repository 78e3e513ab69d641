"""What answering costs: counted where a model works, told with each answer, summed per run.

A model counts into its own totals and, through the context, into the message being answered, also
from an engine's event loop: work handed over there keeps the context of who asked.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from threading import Lock

MODEL_SECONDS = "model_seconds"

_current: ContextVar[Counter[str] | None] = ContextVar("spending", default=None)
_lock = Lock()


def spend(totals: Counter[str], **counts: float) -> None:
    """Add to a model's totals and to what the message being answered has cost; thread-safe."""
    spent = _current.get()
    with _lock:
        for counter in (totals, spent):
            if counter is not None:
                for name, count in counts.items():
                    counter[name] += count  # type: ignore[assignment]


@contextmanager
def tallied() -> Iterator[Counter[str]]:
    """What is spent within the block."""
    spent: Counter[str] = Counter()
    token = _current.set(spent)
    try:
        yield spent
    finally:
        _current.reset(token)


def shares(spent: Mapping[str, float], count: int) -> list[dict[str, float]]:
    """A batch's costs divided evenly among its messages; the first take what does not divide."""
    parts: list[dict[str, float]] = [{} for _ in range(count)]
    for name, amount in spent.items():
        if name == MODEL_SECONDS:
            for part in parts:
                part[name] = amount / count
            continue
        whole, rest = divmod(int(amount), count)
        for place, part in enumerate(parts):
            if share := whole + (place < rest):
                part[name] = share
    return parts


class SharedClock:
    """Time that works under way at once share evenly: their shares add up to the busy time."""

    def __init__(self) -> None:
        self._lock = Lock()
        self._working = 0
        self._share_s = 0.0
        self._since_s = time.monotonic()

    @contextmanager
    def working(self, spent: Counter[str]) -> Iterator[None]:
        """Adds the share of the time within the block to `spent`."""
        began_s = self._turn(+1)
        try:
            yield
        finally:
            spent[MODEL_SECONDS] += self._turn(-1) - began_s  # type: ignore[assignment]

    def _turn(self, change: int) -> float:
        with self._lock:
            now_s = time.monotonic()
            if self._working:
                self._share_s += (now_s - self._since_s) / self._working
            self._since_s = now_s
            self._working += change
            return self._share_s
