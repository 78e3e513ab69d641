"""Fusion by the sum of min-max normalised scores."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from shared.fusion.union import Fused, Scores, weighted_sum
from shared.ranking import ScoredRows


def score_sum(lists: Sequence[ScoredRows], weights: Sequence[float] | None = None) -> Fused:
    """Σ_lists w_l · score, each list stretched to [0, 1]; a list without a row contributes 0.

    The last of a list thus gets what an absent row gets: a list says nothing of how bad its last
    is. In a list whose scores are all equal every row gets 1.

    Args:
        weights: of the lists, 1 where none are given; see `weighted_sum` for those below 0.
    Returns: (row, score) for every row of any list, by (score, best single rank, row).
    Raises: ValueError: a row twice in one list, or no list.
    """
    normalised = [_stretched(ranking.scores.astype(np.float64)) for ranking in lists]
    return weighted_sum([ranking.rows for ranking in lists], normalised, weights)


def _stretched(scores: Scores) -> Scores:
    if not len(scores):
        return scores
    low, high = scores.min(), scores.max()
    return (scores - low) / (high - low) if high > low else np.ones_like(scores)
