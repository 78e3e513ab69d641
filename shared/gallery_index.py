"""How the best rows of a gallery are found: the interface of an index, and the exact one.

Every index answers with the scores of the exact one: an index of another kind finds candidates, and
`rank_candidates` scores them as a pass over the whole gallery would. Where the candidates hold all
that the exact index returns, the answer is the same, byte for byte.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple, Protocol

import numpy as np

from shared.exact_ranking import rank_exactly
from shared.ranking_layout import COLUMNS, Rows, StoredMatrix, Wanted, column_of
from shared.scored_keys import ScoredRows


class EmbeddedGallery(Protocol):
    """What is needed of an image database (`shared.image_database.ImageDatabase` has it)."""

    @property
    def image_embeddings(self) -> StoredMatrix: ...
    @property
    def caption_embeddings(self) -> StoredMatrix: ...
    @property
    def searchable(self) -> int: ...


class GalleryIndex(Protocol):
    """Ranks one gallery."""

    def rank(self, wanted: Sequence[Wanted], depth: int) -> list[ScoredRows]:
        """The `depth` best rows of every ranking, by (rounded score descending, row ascending).

        Rows that are excluded, outside a ranking's subset, not searchable, or without the
        embeddings they would be scored with are never among them.

        Returns: one ranking per entry of `wanted`, in order; shorter where fewer rows can be had.
        Raises: TransientError: it cannot be reached just now. PermanentError: it is not there.
        """
        ...


class ExactIndex(NamedTuple):
    """One pass over the whole gallery: the default, and what the others are compared with."""

    gallery: EmbeddedGallery

    def rank(self, wanted: Sequence[Wanted], depth: int) -> list[ScoredRows]:
        gallery = self.gallery
        return rank_exactly(
            gallery.image_embeddings, gallery.caption_embeddings, gallery.searchable, wanted, depth
        )


def rank_candidates(
    gallery: EmbeddedGallery, candidates: Mapping[Wanted, Rows], depth: int
) -> dict[Wanted, ScoredRows]:
    """Rank each of the rankings among its candidates alone, with the scores of the exact index.

    Args:
        candidates: ranking -> rows, in any order, repeated or not; those that it may not have are
            left out.
    """
    best: dict[Wanted, ScoredRows] = {}
    for some in _groups(candidates):
        restricted = [one._replace(subset=rows) for one, rows in some.items()]
        best.update(zip(some, ExactIndex(gallery).rank(restricted, depth), strict=True))
    return best


def _groups(candidates: Mapping[Wanted, Rows]) -> Iterator[dict[Wanted, tuple[int, ...]]]:
    """Rankings that share a pass, and their rows.

    The rankings of one vector get the candidates of all of them, so that they share its products;
    and only so many vectors go together as are multiplied anyway: a pass reads what any of its
    rankings wants, and multiplies all of it with all of its vectors.
    """
    lists: dict[object, list[Wanted]] = {}
    for one in candidates:
        lists.setdefault(column_of(one), []).append(one)
    columns = list(lists.values())
    for first in range(0, len(columns), COLUMNS):
        group: dict[Wanted, tuple[int, ...]] = {}
        for of_column in columns[first : first + COLUMNS]:
            rows = np.unique(np.concatenate([candidates[one] for one in of_column]))
            if (subset := of_column[0].subset) is not None:
                rows = np.intersect1d(rows, np.array(subset, np.int64), assume_unique=True)
            group.update(dict.fromkeys(of_column, tuple(rows.tolist())))
        yield group
