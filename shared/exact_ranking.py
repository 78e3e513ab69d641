"""One pass over a gallery for many rankings at once: products, weighted sums, the best rows.

The gallery is cut into blocks of 1024 rows. A block is converted to float32, multiplied with all
query vectors, and only scores above a ranking's current `depth`-th best leave it. Nothing of the
size (rankings × gallery) is ever made, and nothing is sorted but what is left.

Exact means: the outcome is that of sorting all scores rounded to 6 decimals, ties to the lower row.
It does not depend on threads, nor on what else is ranked in the same pass: BLAS runs on one thread,
blocks have one shape, and where a BLAS sums a column in another order when it has more neighbours
(`_sums_alike`), columns are multiplied in groups of 8.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np
from threadpoolctl import ThreadpoolController

from shared.ranking_layout import (
    BLOCK_ROWS,
    COLUMNS,
    Bools,
    GalleryPart,
    Layer,
    Layout,
    Matrix,
    Rows,
    StoredMatrix,
    Wanted,
    passes,
)
from shared.scored_keys import (
    MICRO,
    ScoredRows,
    best_keys,
    keys_of,
    micro_scores_of,
    rows_of,
    slots_of,
)

_COMPACT_KEYS = 1 << 17
"""How many keys wait before those that are beaten are thrown away: 1 MB."""


def rank_exactly(
    image_embeddings: StoredMatrix,
    caption_embeddings: StoredMatrix,
    searchable: int,
    wanted: Sequence[Wanted],
    depth: int,
    threads: int = 0,
) -> list[ScoredRows]:
    """The `depth` best rows of every ranking, by (rounded score descending, row ascending).

    Args:
        image_embeddings, caption_embeddings: float16 or float32 (rows, dimensions), unit or zero
            rows; read block by block, so that a memory map is not loaded at once.
        searchable: rows from here on are never ranked.
        threads: blocks multiplied at the same time; 0 = as many as BLAS is allowed.
    Returns: one ranking per entry of `wanted`, in order; shorter where fewer rows can be ranked.
    """
    threads = threads or _blas_threads()
    best: dict[Wanted, ScoredRows] = {}
    with _blas().limit(limits=1, user_api="blas"):
        for some, rows in passes(dict.fromkeys(wanted), searchable):
            part = GalleryPart(image_embeddings, caption_embeddings, searchable, rows)
            layout = Layout(some, part)
            best.update(_decoded(layout, part, _scan(layout, part, depth, threads)))
    return [best[one] for one in wanted]


class _Scan:
    """One thread's blocks of a pass, in ascending order, and the best scores among them."""

    def __init__(self, layout: Layout, part: GalleryPart, depth: int) -> None:
        self._layout = layout
        self._part = part
        self._depth = depth
        self._thresholds = [layer.thresholds() for layer in layout.layers]
        self._keys: list[Rows] = []
        self._waiting = 0
        self._compacted = 0
        dimensions = part.image_embeddings.shape[1]
        self._block = np.empty((BLOCK_ROWS, dimensions), np.float32)
        self._of_images = np.empty((BLOCK_ROWS, layout.image_vectors.shape[1]), np.float32)
        self._of_captions = np.empty((BLOCK_ROWS, layout.caption_vectors.shape[1]), np.float32)
        self._sum = np.empty((BLOCK_ROWS, len(layout.of_both)), np.float32)
        self._other = np.empty_like(self._sum)

    def run(self, first: int, last: int) -> Rows:
        """The keys of the best rows in [first, last), and perhaps of a few more."""
        for start in range(first, last, BLOCK_ROWS):
            self._add_block(start, min(start + BLOCK_ROWS, last))
        return np.concatenate([np.empty(0, np.int64), *self._keys])

    def _add_block(self, first: int, last: int) -> None:
        layout, part = self._layout, self._part
        no_image = self._multiply(
            part.image_embeddings, layout.image_vectors, first, last, self._of_images
        )
        no_caption = self._multiply(
            part.caption_embeddings, layout.caption_vectors, first, last, self._of_captions
        )
        eligible = layout.eligible(first, last) if layout.subsets else None
        for place, layer in enumerate(layout.layers):
            if layer is layout.images:
                scores, missing = self._of_images, [no_image]
            elif layer is layout.captions:
                scores, missing = self._of_captions, [no_caption]
            else:
                scores, missing = self._weighted_sum(layer), [no_image, no_caption]
            left_out = np.concatenate(missing) if any(map(len, missing)) else None
            self._select(place, scores, first, left_out, eligible)
        if self._waiting > max(_COMPACT_KEYS, 2 * self._compacted):
            self._compact()

    def _multiply(
        self, matrix: StoredMatrix, vectors: Matrix, first: int, last: int, out: Matrix
    ) -> Rows:
        """Products of a block; returns the places of the rows that have no embedding."""
        if not vectors.shape[1]:
            return np.empty(0, np.int64)
        self._part.read(matrix, first, last, self._block)
        _product(self._block, vectors, out)
        # A zero row scores exactly zero; only such rows are looked at again.
        suspects = np.flatnonzero(out[:, 0] == 0.0)
        return suspects[~self._block[suspects].any(axis=1)]

    def _weighted_sum(self, layer: Layer) -> Matrix:
        count = len(self._layout.of_both)
        first = self._layout.of_both.start
        image_weights, caption_weights = layer.weights
        np.multiply(self._of_images[:, first : first + count], image_weights, out=self._sum)
        np.multiply(self._of_captions[:, :count], caption_weights, out=self._other)
        self._sum += self._other
        return self._sum

    def _select(
        self,
        place: int,
        scores: Matrix,
        first: int,
        left_out: Rows | None,
        eligible: Bools | None,
    ) -> None:
        """Keep the scores above their ranking's threshold."""
        layer, thresholds = self._layout.layers[place], self._thresholds[place]
        above = scores > thresholds
        if left_out is not None:
            above[left_out] = False
        positions, columns = layer.excluded
        if len(positions):
            some = slice(*np.searchsorted(positions, (first, first + BLOCK_ROWS)))
            above[positions[some] - first, columns[some]] = False
        if eligible is not None:
            above &= eligible[:, self._layout.subset_of_column[layer.columns]]
        found = np.flatnonzero(above)
        if len(found) > self._depth * len(layer.wanted) and not self._compacted:
            self._raise_thresholds(thresholds, scores, above)
            above &= scores > thresholds
            found = np.flatnonzero(above)
        if not len(found):
            return
        rows, places = np.divmod(found, scores.shape[1])
        self._keys.append(
            keys_of(places + layer.first_slot, scores.reshape(-1)[found], rows + first)
        )
        self._waiting += len(found)

    def _raise_thresholds(self, thresholds: Matrix, scores: Matrix, above: Bools) -> None:
        """From the first blocks, by their own `depth`-th best, before any keys are made."""
        if self._depth > BLOCK_ROWS:
            return
        ranked = np.where(above, scores, -np.inf)
        cut = BLOCK_ROWS - self._depth
        of_block = np.partition(ranked, cut, axis=0)[cut]
        np.maximum(thresholds, of_block - np.float32(2 / MICRO), out=thresholds)

    def _compact(self) -> None:
        keys = best_keys(np.concatenate(self._keys), self._depth)
        self._keys, self._waiting, self._compacted = [keys], len(keys), len(keys)
        slots = slots_of(keys)
        # The last key of a ranking that is full is the one to beat; rows only ascend, so that an
        # equal score no longer counts. 0.1 millionths are left for float32.
        last = np.flatnonzero(np.append(slots[1:] != slots[:-1], True))
        counts = np.diff(last, prepend=-1)
        full = last[counts >= self._depth]
        beaten = (micro_scores_of(keys[full]) + 0.4) / MICRO
        for layer, thresholds in zip(self._layout.layers, self._thresholds, strict=True):
            places = slots[full] - layer.first_slot
            ours = (places >= 0) & (places < len(thresholds))
            thresholds[places[ours]] = beaten[ours]


def _scan(layout: Layout, part: GalleryPart, depth: int, threads: int) -> Rows:
    """The best keys of every slot, of all blocks."""
    blocks = -(-len(part) // BLOCK_ROWS)
    threads = max(1, min(threads, blocks))
    cuts = [blocks * place // threads * BLOCK_ROWS for place in range(threads)]
    spans = list(zip(cuts, [*cuts[1:], len(part)], strict=True))
    scans = [_Scan(layout, part, depth) for _ in spans]
    if threads == 1:
        return best_keys(scans[0].run(*spans[0]), depth)
    with ThreadPoolExecutor(threads, "rank") as pool:
        found = pool.map(lambda scan, span: scan.run(*span), scans, spans)
        return best_keys(np.concatenate(list(found)), depth)


def _decoded(layout: Layout, part: GalleryPart, keys: Rows) -> Iterator[tuple[Wanted, ScoredRows]]:
    slots = slots_of(keys)
    scores = (micro_scores_of(keys) / MICRO).astype(np.float32)
    positions = rows_of(keys)
    rows = (positions if part.rows is None else part.rows[positions]).astype(np.int32)
    for layer in layout.layers:
        for place, one in layer.wanted.items():
            slot = layer.first_slot + place
            some = slice(*np.searchsorted(slots, (slot, slot + 1)))
            yield one, ScoredRows(rows[some], scores[some])


def _product(block: Matrix, vectors: Matrix, out: Matrix) -> None:
    if _sums_alike(*vectors.shape):
        np.matmul(block, vectors, out=out)
    else:
        _product_by_groups(block, vectors, out)


def _product_by_groups(block: Matrix, vectors: Matrix, out: Matrix) -> None:
    for first in range(0, vectors.shape[1], COLUMNS):
        some = slice(first, first + COLUMNS)
        out[:, some] = block @ np.ascontiguousarray(vectors[:, some])


@functools.cache
def _sums_alike(dimensions: int, columns: int) -> bool:
    """Whether this BLAS gives each column of so wide a product the bits of a product of 8 columns.

    The order of the sums depends on shapes alone, so that one try on random numbers shows it.
    """
    if columns == COLUMNS:
        return True
    draw = np.random.default_rng(columns)
    block = draw.standard_normal((BLOCK_ROWS, dimensions), dtype=np.float32)
    vectors = draw.standard_normal((dimensions, columns), dtype=np.float32)
    by_groups = np.empty((BLOCK_ROWS, columns), np.float32)
    _product_by_groups(block, vectors, by_groups)
    return np.array_equal(block @ vectors, by_groups)


@functools.cache
def _blas() -> ThreadpoolController:
    return ThreadpoolController()


def _blas_threads() -> int:
    found = [library["num_threads"] for library in _blas().select(user_api="blas").info()]
    return max(found, default=1)
