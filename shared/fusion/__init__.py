"""Fusing several rankings of one gallery into one.

`fuse` chooses the method by name. Every method returns (row, score) pairs, best first, scores
descending; ties are broken by the best single rank a row has in any list, then by the lower row.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from shared.errors import ConfigurationError
from shared.fusion.interleaving import interleave
from shared.fusion.reciprocal_rank import rrf
from shared.fusion.score_sum import score_sum
from shared.fusion.union import Fused
from shared.ranking import ScoredRows

FusionMethod = Literal["rrf", "sum", "interleave", "none"]

__all__ = ["FusionMethod", "Fused", "fuse", "interleave", "rrf", "score_sum"]


def fuse(
    method: FusionMethod,
    lists: Sequence[ScoredRows],
    rrf_k: int = 60,
    weights: Sequence[float] | None = None,
) -> Fused:
    """One ranking from several, by `method`; "none" takes the one list there is as it is.

    Args:
        weights: of the lists, in "rrf" and "sum"; None = all 1.
    Raises: ConfigurationError: an unknown method, no list, "none" with several lists, or weights
        for a method that knows none.
    """
    if not lists:
        raise ConfigurationError("there is no list to fuse")
    if method == "rrf":
        return rrf([ranking.rows for ranking in lists], rrf_k, weights)
    if method == "sum":
        return score_sum(lists, weights)
    if weights is not None:
        raise ConfigurationError(f"fusion {method!r} has no weights: use rrf or sum")
    if method == "interleave":
        return interleave([ranking.rows for ranking in lists])
    if method != "none":
        raise ConfigurationError(f"fusion {method!r}: use rrf, sum, interleave or none")
    if len(lists) > 1:
        raise ConfigurationError(f"fusion 'none' takes one list, not {len(lists)}")
    return list(zip(lists[0].rows.tolist(), lists[0].scores.tolist(), strict=True))
