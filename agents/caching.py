"""A least-recently-used cache bounded by what its values cost: one each, or their bytes."""

from __future__ import annotations

from collections import OrderedDict
from typing import Generic, Protocol, TypeVar
from weakref import WeakSet

Key = TypeVar("Key")
Value = TypeVar("Value")


class Counted(Protocol):
    """A cache that counts what is found in it."""

    @property
    def name(self) -> str: ...

    @property
    def hits(self) -> int: ...

    @property
    def misses(self) -> int: ...


_named: WeakSet[Counted] = WeakSet()


def count_in_metrics(cache: Counted) -> None:
    """Show a cache in the metrics and heartbeats of this process, as long as it lives."""
    _named.add(cache)


def counted_caches() -> dict[str, tuple[int, int]]:
    """(hits, misses) of the named caches of this process, by name."""
    counted: dict[str, tuple[int, int]] = {}
    for cache in list(_named):
        hits, misses = counted.get(cache.name, (0, 0))
        counted[cache.name] = (hits + cache.hits, misses + cache.misses)
    return dict(sorted(counted.items()))


class BoundedCache(Generic[Key, Value]):
    """Keeps what was used last, up to a total cost of `capacity`. What costs more is never kept.

    Not thread-safe: the models and skills of a process run on one thread.

    Args:
        name: under which its hits and misses are counted in the metrics; empty = not at all.
    """

    def __init__(self, capacity: int, name: str = "") -> None:
        self.name = name
        self.hits = self.misses = 0
        if name:
            count_in_metrics(self)
        self._capacity = capacity
        self._used = 0
        self._entries: OrderedDict[Key, tuple[Value, int]] = OrderedDict()

    def __len__(self) -> int:
        return len(self._entries)

    def get(self, key: Key) -> Value | None:
        """The value, marked as just used; None where it isn't kept."""
        entry = self._entries.get(key)
        if entry is None:
            self.misses += 1
            return None
        self.hits += 1
        self._entries.move_to_end(key)
        return entry[0]

    def put(self, key: Key, value: Value, cost: int = 1) -> None:
        """Keep a value; the least recently used ones make room."""
        if key in self._entries:
            self._used -= self._entries.pop(key)[1]
        if cost > self._capacity:
            return
        self.make_room(cost)
        self._entries[key] = (value, cost)
        self._used += cost

    def make_room(self, cost: int) -> None:
        """Drop the least recently used values until one of `cost` fits beside the others."""
        while self._entries and self._used + cost > self._capacity:
            _, (_, freed) = self._entries.popitem(last=False)
            self._used -= freed
