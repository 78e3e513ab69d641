"""Which rankings share a pass over a gallery, and which column of which scores each of them is."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from shared.half_precision import to_float32
from shared.scored_keys import MOST_SLOTS

Matrix = npt.NDArray[np.float32]
StoredMatrix = npt.NDArray[np.float16] | Matrix
Rows = npt.NDArray[np.int64]
Bools = npt.NDArray[np.bool_]

BLOCK_ROWS = 1024  # 2 MB of 512 dimensions: a block stays in the cache while it is multiplied
COLUMNS = 8  # query vectors are multiplied in multiples of so many, the last filled with zeros
_MOST_COLUMNS = 256  # of one pass: bounds the products of a block to 1 MB a matrix


class Wanted(NamedTuple):
    """One ranking: of score(j) = image_weight × vector·v_j + caption_weight × vector·u_j.

    A weight of 0 leaves the matrix out; with both, the weights are λ's. A row without the
    embeddings it is scored with (all zero) is not ranked.

    Attributes:
        vector: little-endian float32 bytes, not all zero, no longer than 1.
        excluded: rows that are not ranked.
        subset: ascending; when given, only these are ranked.
    """

    vector: bytes
    image_weight: float
    caption_weight: float
    excluded: tuple[int, ...] = ()
    subset: tuple[int, ...] | None = None


class _Column(NamedTuple):
    """A query vector and the rows it is multiplied for; all rankings of it share the products."""

    vector: bytes
    excluded: tuple[int, ...]
    subset: tuple[int, ...] | None


def passes(
    wanted: dict[Wanted, None], searchable: int
) -> Iterator[tuple[list[Wanted], Rows | None]]:
    """What is ranked together, and the rows: None = all, else those that some ranking may have."""
    for restricted in (False, True):
        some: list[Wanted] = []
        columns: dict[_Column, int] = {}
        for one in wanted:
            if (one.subset is not None) is not restricted:
                continue
            column = column_of(one)
            hybrids = columns.get(column, 0) + (one.image_weight > 0 < one.caption_weight)
            width = -(-(len(columns) + (column not in columns)) // COLUMNS) * COLUMNS
            layers = max(hybrids, *columns.values(), 0)
            if width > _MOST_COLUMNS or (2 + layers) * width > MOST_SLOTS:
                yield some, _united(some, searchable) if restricted else None
                some, columns, hybrids = [], {}, int(one.image_weight > 0 < one.caption_weight)
            some.append(one)
            columns[column] = hybrids
        if some:
            yield some, _united(some, searchable) if restricted else None


def _united(wanted: Sequence[Wanted], searchable: int) -> Rows:
    subsets = dict.fromkeys(one.subset for one in wanted if one.subset is not None)
    rows = np.unique(np.concatenate([np.array(subset, np.int64) for subset in subsets]))
    return rows[: np.searchsorted(rows, searchable)]


@dataclass(frozen=True)
class GalleryPart:
    """The rows of a gallery that a pass goes over: `rows`, or all that are searchable."""

    image_embeddings: StoredMatrix
    caption_embeddings: StoredMatrix
    searchable: int
    rows: Rows | None

    def __len__(self) -> int:
        return self.searchable if self.rows is None else len(self.rows)

    def positions(self, rows: Sequence[int]) -> Rows:
        """Where these rows are in the pass, ascending; those that are not in it are left out."""
        asked = np.unique(np.array(rows, np.int64))
        if self.rows is None:
            return asked[: np.searchsorted(asked, self.searchable)]
        return np.flatnonzero(np.isin(self.rows, asked, assume_unique=True)).astype(np.int64)

    def read(self, matrix: StoredMatrix, first: int, last: int, out: Matrix) -> None:
        """A block of the matrix in float32, what is not there zero."""
        block = matrix[first:last] if self.rows is None else matrix[self.rows[first:last]]
        if block.dtype == np.float16:
            to_float32(block.view(np.int16), out[: len(block)])
        else:
            out[: len(block)] = block
        out[len(block) :] = 0.0


class Layer:
    """Rankings that are scored at once: one per column of a matrix of scores, or none.

    Attributes:
        first_slot: of its first column; slots number the rankings of a pass.
        columns: index of each column's vector in the pass; -1 = filled up.
        wanted: column -> what is ranked there.
        weights: (of the images, of the captions) by column, for a weighted sum.
        excluded: positions in the pass, ascending, and the columns they are excluded from.
    """

    def __init__(self, first_slot: int, columns: Sequence[int], width: int) -> None:
        self.first_slot = first_slot
        self.columns = [*columns, *[-1] * (width - len(columns))]
        self.wanted: dict[int, Wanted] = {}
        self.weights = np.zeros((2, width), np.float32)
        self.excluded: tuple[Rows, Rows] = (np.empty(0, np.int64), np.empty(0, np.int64))

    def put(self, column: int, one: Wanted) -> bool:
        """Place a ranking by its vector; False when the column has one already."""
        place = self.columns.index(column)
        if self.wanted.setdefault(place, one) is not one:
            return False
        self.weights[:, place] = one.image_weight, one.caption_weight
        return True

    def exclude(self, part: GalleryPart) -> None:
        """Look up the excluded rows of a pass over the whole gallery."""
        pairs = [
            (position, place)
            for place, one in self.wanted.items()
            for position in part.positions(one.excluded).tolist()
        ]
        found = np.array(sorted(pairs), np.int64).reshape(-1, 2)
        self.excluded = (found[:, 0].copy(), found[:, 1].copy())

    def thresholds(self) -> Matrix:
        found = np.full(len(self.columns), np.inf, np.float32)
        found[list(self.wanted)] = -np.inf
        return found


class Layout:
    """Which column of which matrix of scores each ranking of a pass is.

    The vectors are ordered: those for the images alone, for both, for the captions alone; so that
    both factors of the weighted sums are slices.
    """

    def __init__(self, wanted: Sequence[Wanted], part: GalleryPart) -> None:
        uses: dict[_Column, tuple[bool, bool]] = {}
        for one in wanted:
            image, caption = uses.get(column_of(one), (False, False))
            uses[column_of(one)] = (
                image or one.image_weight > 0,
                caption or one.caption_weight > 0,
            )
        ordered = sorted(uses, key=lambda column: uses[column][1] - uses[column][0])
        index = {column: place for place, column in enumerate(ordered)}
        self.of_images = range(sum(image for image, _ in uses.values()))
        self.of_captions = range(sum(not caption for _, caption in uses.values()), len(uses))
        self.of_both = range(self.of_captions.start, self.of_images.stop)
        self.image_vectors = _stacked([ordered[place].vector for place in self.of_images])
        self.caption_vectors = _stacked([ordered[place].vector for place in self.of_captions])
        self.images = Layer(0, self.of_images, self.image_vectors.shape[1])
        self.captions = Layer(
            self.image_vectors.shape[1], self.of_captions, self.caption_vectors.shape[1]
        )
        self.slots = self.captions.first_slot + self.caption_vectors.shape[1]
        self.sums: list[Layer] = []
        for one in wanted:
            self._put(index[column_of(one)], one)
        self.layers = [layer for layer in (self.images, self.captions, *self.sums) if layer.wanted]
        self.subsets: list[Rows] = []
        self.subset_of_column = np.full(len(ordered) + 1, -1)  # the last one is of column -1
        if part.rows is None:
            for layer in self.layers:
                layer.exclude(part)
        else:
            self._restrict(ordered, part)

    def _put(self, column: int, one: Wanted) -> None:
        if not one.caption_weight:
            self.images.put(column, one)
        elif not one.image_weight:
            self.captions.put(column, one)
        elif not any(layer.put(column, one) for layer in self.sums):
            self.sums.append(Layer(self.slots, self.of_both, len(self.of_both)))
            self.slots += len(self.of_both)
            self.sums[-1].put(column, one)

    def _restrict(self, ordered: Sequence[_Column], part: GalleryPart) -> None:
        groups: dict[tuple[tuple[int, ...], tuple[int, ...] | None], int] = {}
        for place, column in enumerate(ordered):
            key = (column.excluded, column.subset)
            if key not in groups:
                groups[key] = len(groups)
                left = np.setdiff1d(np.array(column.subset, np.int64), column.excluded)
                self.subsets.append(part.positions(left.tolist()))
            self.subset_of_column[place] = groups[key]

    def eligible(self, first: int, last: int) -> Bools:
        """(BLOCK_ROWS, subsets) of a pass over subsets: which rows of the block are in which."""
        found = np.zeros((BLOCK_ROWS, len(self.subsets)), np.bool_)
        for place, positions in enumerate(self.subsets):
            some = positions[np.searchsorted(positions, first) : np.searchsorted(positions, last)]
            found[some - first, place] = True
        return found


def column_of(one: Wanted) -> _Column:
    """What rankings with the same vector, of the same rows, have in common."""
    return _Column(one.vector, one.excluded, one.subset)


def _stacked(vectors: Sequence[bytes]) -> Matrix:
    """(dimensions, vectors rounded up to a multiple of 8), the last ones zero."""
    if not vectors:
        return np.empty((0, 0), np.float32)
    stacked = np.stack([np.frombuffer(vector, "<f4") for vector in vectors])
    filled = -len(vectors) % COLUMNS
    return np.ascontiguousarray(np.pad(stacked, ((0, filled), (0, 0))).T, np.float32)
