"""What the fusion methods share: the union of several rankings and the order of its members."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

Fused = list[tuple[int, float]]
"""(row, fused score), best first."""

Rows = npt.NDArray[np.int64]
Scores = npt.NDArray[np.float64]

_SCORE_DECIMALS = 12


class Union(NamedTuple):
    """All entries of all lists, one after the other, and the distinct rows among them.

    Attributes:
        rows: the distinct rows, ascending.
        member: for each entry, the position of its row in `rows`.
        rank: for each entry, its 1-based rank in its list.
        best_rank: for each distinct row, its best rank in any list.
    """

    rows: Rows
    member: Rows
    rank: Rows
    best_rank: Rows


def unite(rankings: Sequence[Sequence[int] | npt.NDArray[np.int32]]) -> Union:
    """Raises: ValueError: a row stands twice in one ranking, or no ranking was given."""
    if not rankings:
        raise ValueError("there is no ranking to fuse")
    arrays = [np.asarray(ranking, dtype=np.int64) for ranking in rankings]
    entries = np.concatenate(arrays)
    lengths = [len(array) for array in arrays]
    rank = np.concatenate([np.arange(1, length + 1) for length in lengths])
    list_of = np.repeat(np.arange(len(arrays)), lengths)

    # Sorted by row and, within a row, by list: equal neighbours are the same row of one list.
    order = np.argsort((entries << 16) | list_of, kind="stable")
    ordered, ordered_lists = entries[order], list_of[order]
    new = np.empty(len(ordered), dtype=bool)
    new[:1] = True
    np.not_equal(ordered[1:], ordered[:-1], out=new[1:])
    repeated = ~new[1:] & (ordered_lists[1:] == ordered_lists[:-1])
    if repeated.any():
        row = int(ordered[1:][repeated][0])
        raise ValueError(f"row {row} stands twice in one ranking")
    member = np.empty(len(entries), dtype=np.int64)
    member[order] = np.cumsum(new) - 1
    starts = np.flatnonzero(new)
    best = np.minimum.reduceat(rank[order], starts) if len(starts) else np.empty(0, np.int64)
    return Union(ordered[starts], member, rank, best)


def weighted_sum(
    rankings: Sequence[Sequence[int] | npt.NDArray[np.int32]],
    contributions: Sequence[Scores],
    weights: Sequence[float] | None = None,
) -> Fused:
    """The rows of the rankings by the weighted sum of what each ranking contributes to them.

    A ranking whose weight is below 0 pushes down the rows that others hold. It brings in none of
    its own and breaks no ties: what only it holds is not wanted.

    Args:
        contributions: per ranking, one value per entry, not negative.
        weights: per ranking; None = all 1.
    Raises: ValueError: as `unite`, or there are not as many weights as rankings.
    """
    weights = [1.0] * len(rankings) if weights is None else weights
    given = list(zip(rankings, contributions, weights, strict=True))
    raising = [entry for entry in given if entry[2] >= 0]
    union = unite([ranking for ranking, _, _ in raising])
    raised = [values if weight == 1.0 else values * weight for _, values, weight in raising]
    sums = summed_by_row(union, np.concatenate(raised))
    for ranking, values, weight in given:
        if weight < 0 and len(union.rows):
            rows = np.asarray(ranking, dtype=np.int64)
            places = np.minimum(np.searchsorted(union.rows, rows), len(union.rows) - 1)
            held = union.rows[places] == rows
            sums[places[held]] += weight * values[held]
    return ordered_by_score(union, sums)


def summed_by_row(union: Union, contributions: Scores) -> Scores:
    """The sum of the contributions of each distinct row's entries."""
    sums = np.bincount(union.member, weights=contributions, minlength=len(union.rows))
    return sums.astype(np.float64)


def ordered_by_score(union: Union, scores: Scores) -> Fused:
    """Best first by (score, best single rank, row).

    Scores are compared to 12 decimals: 1/61 + 1/62 + 1/63 must equal 1/63 + 1/62 + 1/61, though the
    floating sums differ in the last bit.
    """
    rounded = np.round(scores, _SCORE_DECIMALS)
    order = np.lexsort((union.rows, union.best_rank, -rounded))
    return list(zip(union.rows[order].tolist(), rounded[order].tolist(), strict=True))
