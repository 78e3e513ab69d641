"""Exact ranking with the gallery's matrices resident on a device of torch.

The device finds candidates by float32 products; the answer is scored by the exact index
(`rank_candidates`). Float32 sums in another order differ by a bound that is known, so that it is
known, too, whether a row that was left out could belong to the answer: then more candidates are
taken. The outcome is that of the exact index, byte for byte.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import numpy as np
import torch

from agents.caching import BoundedCache
from shared.errors import ConfigurationError
from shared.gallery_index import EmbeddedGallery, ExactIndex, rank_candidates
from shared.ranking_layout import Rows, StoredMatrix, Wanted
from shared.scored_keys import MICRO, ScoredRows

logger = logging.getLogger(__name__)

_BLOCK_ROWS = 1 << 16
_MOST_LISTS = 256  # of one pass: bounds a block's scores to 64 MB
_SLACK = 28
"""Candidates beyond the depth; more than the bound on errors makes necessary, nearly always."""
_FEW_ROWS = 2048
"""A subset of so many rows needs no device."""
_MOST_WIDENINGS = 3
_HALF_ULP = 2.0**-24


def open_device(device: str, budget_bytes: int) -> DeviceGalleries:
    """Raises: ConfigurationError: torch has no such device here."""
    try:
        torch.empty(1, device=torch.device(device))
    except (RuntimeError, AssertionError) as error:  # the latter: a torch built without CUDA
        raise ConfigurationError(f"XR_RANK_DEVICE {device!r}: {error}") from error
    return DeviceGalleries(device, budget_bytes)


class DeviceGalleries:
    """The galleries resident on a device; the least recently used make room for others."""

    def __init__(self, device: str, budget_bytes: int) -> None:
        self._device = torch.device(device)
        self._budget_bytes = budget_bytes
        self._refused: set[str] = set()  # what the device had no room for stays on the CPU
        self._resident: BoundedCache[str, TorchIndex] = BoundedCache(budget_bytes, "galleries")

    def index(self, key: str, gallery: EmbeddedGallery) -> TorchIndex | ExactIndex:
        """The gallery's index on the device; the exact one where the matrices don't fit.

        Args:
            key: of what the gallery holds; another content is another key.
        """
        resident = self._resident.get(key)
        if resident is not None:
            return resident
        if key in self._refused:
            return ExactIndex(gallery)
        size = 2 * gallery.image_embeddings[:1].nbytes * gallery.searchable
        if size > self._budget_bytes:
            logger.info("%s: %.0f MB do not fit the budget; ranked on the CPU", key, size / 1e6)
            return ExactIndex(gallery)
        # Room is made before the copy: old and new would not fit together.
        self._resident.make_room(size)
        try:
            resident = TorchIndex(gallery, self._device)
        except torch.OutOfMemoryError as error:
            self._refused.add(key)
            logger.warning(
                "%s: %s does not hold it; ranked on the CPU: %s", key, self._device, error
            )
            return ExactIndex(gallery)
        self._resident.put(key, resident, size)
        return resident


class TorchIndex:
    """A `GalleryIndex` of one gallery, whose matrices are copied to the device."""

    def __init__(self, gallery: EmbeddedGallery, device: torch.device) -> None:
        self._gallery = gallery
        self._device = device
        self._rows = gallery.searchable
        self._images = _Resident(gallery.image_embeddings, self._rows, device)
        self._captions = _Resident(gallery.caption_embeddings, self._rows, device)
        # Two sums of as many products (the device's, the exact index's), each off by at most this.
        error = 2 * 1.01 * gallery.image_embeddings.shape[1] * _HALF_ULP + 8 * _HALF_ULP
        self._margin = 2 * error + 2 / MICRO

    def rank(self, wanted: Sequence[Wanted], depth: int) -> list[ScoredRows]:
        try:
            return self._rank(wanted, depth)
        except torch.OutOfMemoryError as error:
            logger.warning("ranked on the CPU, as %s has no room: %s", self._device, error)
        # No longer within `except`: the traceback holds on to the memory.
        return ExactIndex(self._gallery).rank(wanted, depth)

    def _rank(self, wanted: Sequence[Wanted], depth: int) -> list[ScoredRows]:
        candidates: dict[Wanted, Rows] = {}
        waiting: list[Wanted] = []
        for one in dict.fromkeys(wanted):
            if one.subset is not None and len(one.subset) <= _FEW_ROWS:
                candidates[one] = np.array(one.subset, np.int64)
            else:
                waiting.append(one)
        best: dict[Wanted, ScoredRows] = {}
        width = depth + _SLACK
        for _ in range(_MOST_WIDENINGS):
            undecided: list[Wanted] = []
            for first in range(0, len(waiting), _MOST_LISTS):
                some = waiting[first : first + _MOST_LISTS]
                for one, found in zip(some, self._candidates(some, depth, width), strict=True):
                    if found is None:
                        undecided.append(one)
                    else:
                        candidates[one] = found
            waiting, width = undecided, 4 * width
        if waiting:  # so many rows alike that the device does not help
            exact = ExactIndex(self._gallery).rank(waiting, depth)
            best.update(zip(waiting, exact, strict=True))
        best.update(rank_candidates(self._gallery, candidates, depth))
        return [best[one] for one in wanted]

    def _candidates(self, wanted: Sequence[Wanted], depth: int, width: int) -> list[Rows | None]:
        """All rows that may be among the best `depth`; None where more than `width` may be."""
        width = min(width, self._rows)
        if width == 0:
            return [np.empty(0, np.int64) for _ in wanted]
        with torch.inference_mode(), _full_precision():
            scores, rows = self._best(wanted, width)
        scores_there, rows_there = scores.cpu().numpy(), rows.cpu().numpy()
        found: list[Rows | None] = []
        for of_list, of_rows in zip(scores_there, rows_there, strict=True):
            lowest = of_list[min(depth, width) - 1] - self._margin
            possible = (of_list >= lowest) & np.isfinite(of_list)
            complete = width == self._rows or not possible[-1]
            found.append(of_rows[possible].astype(np.int64) if complete else None)
        return found

    def _best(self, wanted: Sequence[Wanted], width: int) -> tuple[torch.Tensor, torch.Tensor]:
        """Scores, descending, and rows of the best `width`; both (lists, width)."""
        vectors, columns = _distinct_vectors(wanted, self._device)
        factors = [
            (matrix, torch.tensor(weights, device=self._device))
            for matrix, weights in (
                (self._images, [one.image_weight for one in wanted]),
                (self._captions, [one.caption_weight for one in wanted]),
            )
            if any(weights)
        ]
        restrictions = _Restrictions(wanted, self._rows, self._device)
        best: tuple[torch.Tensor, torch.Tensor] | None = None
        for first in range(0, self._rows, _BLOCK_ROWS):
            last = min(first + _BLOCK_ROWS, self._rows)
            scores = torch.zeros((len(wanted), last - first), device=self._device)
            for matrix, weight in factors:
                products = vectors @ matrix.values[first:last].float().T
                scores.addcmul_(products[columns], weight[:, None])
                if matrix.misses_some:
                    out = (weight != 0)[:, None] & matrix.missing[first:last]
                    scores.masked_fill_(out, -torch.inf)
            restrictions.apply(scores, first, last)
            values, places = scores.topk(min(width, last - first), dim=1)
            rows = places + first
            if best is not None:
                values, rows = torch.cat([best[0], values], 1), torch.cat([best[1], rows], 1)
                values, places = values.topk(min(width, values.shape[1]), dim=1)
                rows = rows.gather(1, places)
            best = values, rows
        assert best is not None
        return best


class _Resident:
    """A matrix on the device, and which of its rows have no embedding."""

    def __init__(self, matrix: StoredMatrix, rows: int, device: torch.device) -> None:
        shape, kind = (rows, matrix.shape[1]), torch.from_numpy(np.empty(0, matrix.dtype)).dtype
        self.values = torch.empty(shape, dtype=kind, device=device)
        self.missing = torch.empty(rows, dtype=torch.bool, device=device)
        for first in range(0, rows, _BLOCK_ROWS):
            some = slice(first, min(first + _BLOCK_ROWS, rows))
            # A copy: torch warns of arrays that cannot be written, as memory maps are.
            self.values[some] = torch.from_numpy(np.array(matrix[some])).to(device)
            self.missing[some] = ~self.values[some].any(dim=1)
        self.misses_some = bool(self.missing.any())


class _Restrictions:
    """Rows that some of the lists may not have."""

    def __init__(self, wanted: Sequence[Wanted], rows: int, device: torch.device) -> None:
        pairs = [(row, place) for place, one in enumerate(wanted) for row in one.excluded]
        self._excluded = torch.tensor(pairs, dtype=torch.long, device=device).reshape(-1, 2)
        self._masks: list[tuple[torch.Tensor, torch.Tensor]] = []
        lists: dict[tuple[int, ...], list[int]] = {}
        for place, one in enumerate(wanted):
            if one.subset is not None:
                lists.setdefault(one.subset, []).append(place)
        for subset, places in lists.items():
            outside = np.ones(rows, np.bool_)
            inside = np.array(subset, np.int64)
            outside[inside[inside < rows]] = False
            self._masks.append(
                (
                    torch.tensor(places, device=device)[:, None],
                    torch.from_numpy(outside).to(device),
                )
            )

    def apply(self, scores: torch.Tensor, first: int, last: int) -> None:
        """Take these rows out of the scores (lists, rows first..last)."""
        if len(self._excluded):
            rows, places = self._excluded.T
            here = (rows >= first) & (rows < last)
            scores[places[here], rows[here] - first] = -torch.inf
        for of_lists, outside in self._masks:
            out = outside[first:last].nonzero().T
            scores[of_lists, out] = -torch.inf


def _distinct_vectors(
    wanted: Sequence[Wanted], device: torch.device
) -> tuple[torch.Tensor, torch.Tensor]:
    """(vectors, dimensions), and the place of each list's vector."""
    places = {vector: place for place, vector in enumerate(dict.fromkeys(o.vector for o in wanted))}
    stacked = np.stack([np.frombuffer(vector, "<f4") for vector in places])
    columns = torch.tensor([places[one.vector] for one in wanted], device=device)
    return torch.from_numpy(stacked).to(device), columns


@contextmanager
def _full_precision() -> Iterator[None]:
    """Products of float32 as such: TensorFloat-32 would be off by more than the bound."""
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("highest")
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(before)
