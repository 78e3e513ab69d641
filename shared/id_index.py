"""Rows by image id, found by hash: 12 bytes a row where a dict of strings takes a hundred."""

from __future__ import annotations

from collections.abc import Callable, Iterable

import numpy as np


class IdIndex:
    """The row of every id of a listing whose strings lie elsewhere.

    Two ids may have the same 64-bit hash, so that a row found is compared with the listing before
    it is believed.
    """

    def __init__(self, ids: Iterable[str], count: int, id_at: Callable[[int], str]) -> None:
        """Read `count` ids, in row order.

        Args:
            id_at: row -> id, asked for the few rows whose hash fits.
        """
        hashes = np.fromiter((hash(image_id) for image_id in ids), np.int64, count)
        self._rows = np.argsort(hashes, kind="stable").astype(np.int32)
        self._hashes = hashes[self._rows]
        self._id_at = id_at

    def find(self, image_id: str) -> int | None:
        """The row of an id, None when it isn't listed."""
        place = int(np.searchsorted(self._hashes, hash(image_id)))
        while place < len(self._hashes) and self._hashes[place] == hash(image_id):
            row = int(self._rows[place])
            if self._id_at(row) == image_id:
                return row
            place += 1
        return None

    def first_duplicate(self) -> int | None:
        """The lowest row whose id an earlier row has too, None when all ids are different."""
        places = np.flatnonzero(self._hashes[1:] == self._hashes[:-1]) + 1
        rows = sorted(int(self._rows[place]) for place in places)
        return next((row for row in rows if self.find(self._id_at(row)) != row), None)
