"""Reciprocal rank fusion (Cormack, Clarke, Büttcher: SIGIR 2009)."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from shared.fusion.union import Fused, ordered_by_score, summed_by_row, unite


def rrf(rankings: Sequence[Sequence[int] | npt.NDArray[np.int32]], k: float = 60) -> Fused:
    """RRF(j) = Σ_lists 1 / (k + rank_l(j)), ranks 1-based; a list without j contributes nothing.

    Returns: (row, score) for every row of any list, by (score, best single rank, row).
    Raises: ValueError: a row twice in one ranking, no ranking, or k negative.
    """
    if k < 0:
        raise ValueError(f"k is {k}; it must not be negative")
    union = unite(rankings)
    return ordered_by_score(
        union, summed_by_row(union, np.reciprocal(k + union.rank.astype(np.float64)))
    )
