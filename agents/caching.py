"""A least-recently-used cache bounded by what its values cost: one each, or their bytes."""

from __future__ import annotations

from collections import OrderedDict
from typing import Generic, TypeVar

Key = TypeVar("Key")
Value = TypeVar("Value")


class BoundedCache(Generic[Key, Value]):
    """Keeps what was used last, up to a total cost of `capacity`. What costs more is never kept.

    Not thread-safe: the models and skills of a process run on one thread.
    """

    def __init__(self, capacity: int) -> None:
        self._capacity = capacity
        self._used = 0
        self._entries: OrderedDict[Key, tuple[Value, int]] = OrderedDict()

    def __len__(self) -> int:
        return len(self._entries)

    def get(self, key: Key) -> Value | None:
        """The value, marked as just used; None where it isn't kept."""
        entry = self._entries.get(key)
        if entry is None:
            return None
        self._entries.move_to_end(key)
        return entry[0]

    def put(self, key: Key, value: Value, cost: int = 1) -> None:
        """Keep a value; the least recently used ones make room."""
        if key in self._entries:
            self._used -= self._entries.pop(key)[1]
        if cost > self._capacity:
            return
        self._entries[key] = (value, cost)
        self._used += cost
        while self._used > self._capacity:
            _, (_, freed) = self._entries.popitem(last=False)
            self._used -= freed
