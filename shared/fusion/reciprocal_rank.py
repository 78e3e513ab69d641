"""Reciprocal rank fusion (Cormack, Clarke, Büttcher: SIGIR 2009)."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from shared.fusion.union import Fused, Scores, weighted_sum


def rrf(
    rankings: Sequence[Sequence[int] | npt.NDArray[np.int32]],
    k: float = 60,
    weights: Sequence[float] | None = None,
) -> Fused:
    """RRF(j) = Σ_lists w_l / (k + rank_l(j)), ranks 1-based; a list without j contributes nothing.

    Args:
        weights: w_l, 1 where none are given; see `weighted_sum` for those below 0.
    Returns: (row, score) for every row of any list, by (score, best single rank, row).
    Raises: ValueError: a row twice in one ranking, no ranking, or k negative.
    """
    if k < 0:
        raise ValueError(f"k is {k}; it must not be negative")
    contributions: list[Scores] = [
        np.reciprocal(k + np.arange(1, len(ranking) + 1, dtype=np.float64)) for ranking in rankings
    ]
    return weighted_sum(rankings, contributions, weights)
