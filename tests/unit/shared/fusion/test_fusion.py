"""Fusion: hand-worked rankings and ties that never depend on order of summation."""

from __future__ import annotations

from fractions import Fraction
from itertools import pairwise, permutations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from shared.errors import ConfigurationError
from shared.fusion import fuse, interleave, rrf
from shared.scored_keys import ScoredRows


def _scored(rows: list[int], scores: list[float]) -> ScoredRows:
    return ScoredRows(np.array(rows, np.int32), np.array(scores, np.float32))


def test_rrf_of_two_lists_by_hand() -> None:
    fused = rrf([[7, 8, 9], [9, 7]], k=60)
    assert [row for row, _ in fused] == [7, 9, 8]
    assert fused[0][1] == pytest.approx(1 / 61 + 1 / 62)
    assert fused[1][1] == pytest.approx(1 / 63 + 1 / 61)
    assert fused[2][1] == pytest.approx(1 / 62)


def test_equal_scores_go_by_best_single_rank_then_by_row() -> None:
    # k=0: 1/2 + 1/2 = 1 ties with 1/1, which has the better single rank.
    assert [row for row, _ in rrf([[9, 1], [8, 1]], k=0)] == [8, 9, 1]
    assert [row for row, _ in rrf([[5], [3], [4]])] == [3, 4, 5]


def test_sums_of_the_same_ranks_tie_in_whatever_order_they_are_added() -> None:
    # Row 1 has ranks 1, 7, 2 and row 2 has 7, 2, 1; in floating point the second sum is larger.
    lists = [
        [1, 10, 11, 12, 13, 14, 2],
        [20, 2, 21, 22, 23, 24, 1],
        [2, 1],
    ]
    assert (1 / 67 + 1 / 62) + 1 / 61 > (1 / 61 + 1 / 67) + 1 / 62
    expected = rrf(lists)
    assert [row for row, _ in expected[:2]] == [1, 2]
    assert expected[0][1] == expected[1][1]
    for order in permutations(lists):
        assert rrf(order) == expected


rankings = st.lists(st.lists(st.integers(0, 30), unique=True, max_size=20), min_size=1, max_size=6)


@given(rankings, st.integers(0, 100))
def test_rrf_agrees_with_exact_fractions(lists: list[list[int]], k: int) -> None:
    exact: dict[int, tuple[Fraction, int]] = {}
    for ranking in lists:
        for rank, row in enumerate(ranking, start=1):
            total, best = exact.get(row, (Fraction(0), rank))
            exact[row] = (total + Fraction(1, k + rank), min(best, rank))
    order = sorted(exact, key=lambda row: (-exact[row][0], exact[row][1], row))
    fused = rrf(lists, k)
    assert [row for row, _ in fused] == order
    assert [score for _, score in fused] == pytest.approx([float(exact[r][0]) for r in order])


@given(rankings)
def test_interleaving_takes_turns(lists: list[list[int]]) -> None:
    expected: dict[int, None] = {}
    for turn in range(20):
        for ranking in lists:
            if turn < len(ranking):
                expected[ranking[turn]] = None
    fused = interleave(lists)
    assert [row for row, _ in fused] == list(expected)
    assert all(a > b > 0 for (_, a), (_, b) in pairwise(fused))


def test_the_sum_stretches_each_list_first() -> None:
    fused = fuse("sum", [_scored([1, 2, 3], [0.3, 0.2, 0.1]), _scored([3, 2], [90.0, 10.0])])
    assert [row for row, _ in fused] == [1, 3, 2]
    assert [score for _, score in fused] == pytest.approx([1.0, 1.0, 0.5], abs=1e-6)
    assert fuse("sum", [_scored([4, 2], [0.5, 0.5])]) == [(4, 1.0), (2, 1.0)]


def test_none_takes_the_one_list_as_it_is() -> None:
    only = _scored([5, 3], [0.5, 0.25])
    assert fuse("none", [only]) == [(5, 0.5), (3, 0.25)]
    with pytest.raises(ConfigurationError, match="one list, not 2"):
        fuse("none", [only, only])


def test_what_cannot_be_fused_is_refused() -> None:
    with pytest.raises(ValueError, match="row 3 stands twice"):
        rrf([[1, 2], [3, 4, 3]])
    with pytest.raises(ValueError, match="negative"):
        rrf([[1]], k=-1)
    with pytest.raises(ConfigurationError, match="no list"):
        fuse("rrf", [])
    with pytest.raises(ConfigurationError, match="use rrf, sum"):
        fuse("borda", [_scored([1], [1.0])])  # type: ignore[arg-type]
    assert rrf([[], []]) == []
