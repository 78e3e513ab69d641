"""Which images an engine has seen lately, so that they can be named instead of sent."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable


class KnownImages:
    """The content hashes sent last, at most `capacity`. A guess: the engine may have dropped one.

    Used from one event loop only.
    """

    def __init__(self, capacity: int) -> None:
        self._capacity = capacity
        self._seen: OrderedDict[str, None] = OrderedDict()

    def known(self, sha256: str) -> bool:
        """Whether it was sent lately; asking counts as using it."""
        if sha256 not in self._seen:
            return False
        self._seen.move_to_end(sha256)
        return True

    def learn(self, hashes: Iterable[str]) -> None:
        for sha256 in hashes:
            self._seen[sha256] = None
            self._seen.move_to_end(sha256)
        while len(self._seen) > self._capacity:
            self._seen.popitem(last=False)

    def forget(self, hashes: Iterable[str]) -> None:
        for sha256 in hashes:
            self._seen.pop(sha256, None)
