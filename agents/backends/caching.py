"""A least-recently-used cache bounded by the bytes its values take."""

from __future__ import annotations

from collections import OrderedDict
from typing import Generic, TypeVar

Key = TypeVar("Key")
Value = TypeVar("Value")


class ByteBoundedCache(Generic[Key, Value]):
    """Keeps what was used last, up to `max_bytes`. A value larger than that is never kept.

    Not thread-safe: an engine is used by one thread.
    """

    def __init__(self, max_bytes: int) -> None:
        self._max_bytes = max_bytes
        self._used_bytes = 0
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

    def put(self, key: Key, value: Value, size_bytes: int) -> None:
        """Keep a value; the least recently used ones make room."""
        if key in self._entries:
            self._used_bytes -= self._entries.pop(key)[1]
        if size_bytes > self._max_bytes:
            return
        self._entries[key] = (value, size_bytes)
        self._used_bytes += size_bytes
        while self._used_bytes > self._max_bytes:
            _, (_, freed_bytes) = self._entries.popitem(last=False)
            self._used_bytes -= freed_bytes
