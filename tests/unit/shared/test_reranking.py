"""Re-ranking: the two defects of the plain product, ties, and verifications that failed."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from shared.reranking import (
    VerifyMode,
    comparison_merits,
    final_scores,
    normalised_coarse_scores,
    order_by_merit,
    verification_scores,
)

NAN = float("nan")
COARSE = [0.9, 0.8, 0.7, 0.6]


def order(
    coarse: list[float],
    visual: list[float] | None,
    textual: list[float] | None,
    weights: tuple[float, float] = (0.5, 0.5),
    mode: VerifyMode = "both",
) -> list[int]:
    scores = [None if one is None else np.array(one) for one in (visual, textual)]
    return order_by_merit(final_scores(coarse, *scores, weights, mode)).tolist()


def test_hard_counts_agreement_and_soft_averages_probability() -> None:
    p_yes, expected = [[0.9, 0.4, 0.5], [0.1, 0.9, 0.9]], [True, False, True]
    # P(yes) = 0.5 is not a yes. Row q - 1 is by the first q propositions.
    hard = verification_scores(p_yes, expected)
    np.testing.assert_allclose(hard, [[1, 0], [1, 0], [2 / 3, 1 / 3]])
    soft = verification_scores(p_yes, expected, "soft")
    np.testing.assert_allclose(soft[:, 0], [0.9, 1.5 / 2, 2.0 / 3])
    with pytest.raises(ValueError, match="no proposition"):
        verification_scores(np.empty((3, 0)), [])
    with pytest.raises(ValueError, match=r"3 propositions, but answers of shape \(1, 1\)"):
        verification_scores([[0.9]], expected)


def test_a_failed_candidate_has_no_score() -> None:
    scores = verification_scores([[NAN, NAN], [1.0, 0.0]], [False, False])
    assert np.isnan(scores[:, 0]).all()
    assert scores[:, 1].tolist() == [0.0, 0.5]


@given(arrays(np.float32, (7, 4), elements=st.floats(0, 1, width=32)), st.integers(1, 4))
def test_fewer_propositions_score_as_though_the_others_had_not_been_asked(
    p_yes: np.ndarray, count: int
) -> None:
    expected = [True, False, True, False]
    for scoring in ("hard", "soft"):
        whole = verification_scores(p_yes, expected, scoring)[count - 1]
        alone = verification_scores(p_yes[:, :count], expected[:count], scoring)[-1]
        assert whole.tobytes() == alone.tobytes()


def test_the_last_of_the_head_can_win() -> None:
    assert normalised_coarse_scores(COARSE)[0] == 1.0
    assert normalised_coarse_scores(COARSE)[-1] == pytest.approx(1 / 5)
    assert order(COARSE, [0.0, 0.0, 0.0, 1.0], [0.0, 0.0, 0.0, 1.0]) == [3, 0, 1, 2]


def test_candidates_that_satisfy_nothing_keep_their_coarse_order() -> None:
    assert order(COARSE, [0.0] * 4, [0.0] * 4) == [0, 1, 2, 3]
    satisfied = [0.5, 1.0, 0.5, 1.0]
    assert order([1.0] * 4, satisfied, satisfied) == [1, 3, 0, 2]


def test_the_final_score_is_the_weighted_satisfaction_times_the_coarse_score() -> None:
    scores = final_scores(
        COARSE, np.array([0.0, 1.0, 0.0, 0.0]), np.array([1.0, 0.0, 0.0, 0.0]), (0.25, 0.75)
    )
    assert scores.tolist() == pytest.approx([0.75, 0.25 * (0.2 + 0.075) / 0.375, 0.0, 0.0])


def test_one_mode_does_not_look_at_the_other() -> None:
    verdicts = [0.0, 0.0, 0.0, 1.0]
    wrong_length = [1.0]
    assert order(COARSE, verdicts, wrong_length, mode="visual")[0] == 3
    assert order(COARSE, wrong_length, verdicts, mode="textual")[0] == 3
    assert order(COARSE, verdicts, None, mode="visual")[0] == 3


def test_where_one_verification_failed_the_other_speaks_for_both() -> None:
    both = final_scores(COARSE, np.ones(4), np.ones(4))
    halved = final_scores(COARSE, np.array([1, NAN, 1, 1]), np.array([1, 1, NAN, 1]))
    assert halved.tolist() == both.tolist()


def test_an_unverified_candidate_keeps_its_place() -> None:
    assert order(COARSE, [0.0, NAN, 0.0, 1.0], [0.0, NAN, 0.0, 1.0]) == [3, 1, 0, 2]
    assert order(COARSE, None, None) == [0, 1, 2, 3]


def test_odd_heads_are_handled_or_refused() -> None:
    assert order([], [], []) == []
    assert final_scores([0.3], np.ones(1), np.ones(1)).tolist() == [1.0]
    with pytest.raises(ValueError, match="4 candidates, but 3 scores"):
        order(COARSE, [1.0] * 3, [1.0] * 4)
    with pytest.raises(ValueError, match="weights"):
        order(COARSE, [1.0] * 4, [1.0] * 4, (0.0, 0.0))


def test_accepted_candidates_move_to_the_front_in_order() -> None:
    p_yes = [0.2, 0.6, 0.9]
    assert order_by_merit(comparison_merits(p_yes)).tolist() == [1, 2, 0]
    assert order_by_merit(comparison_merits(p_yes, "probability")).tolist() == [2, 1, 0]
    assert order_by_merit(comparison_merits([0.5, 0.5], "probability")).tolist() == [0, 1]
    assert order_by_merit(comparison_merits([])).tolist() == []


def test_a_failed_comparison_keeps_its_place() -> None:
    assert order_by_merit(comparison_merits([NAN, 0.1, 0.9])).tolist() == [0, 2, 1]
    assert order_by_merit(comparison_merits([0.1, NAN, 0.9], "probability")).tolist() == [2, 1, 0]


def test_comparisons_can_be_fused_with_the_rank_before() -> None:
    # Ranks before and by P(yes): 1 and 3, 2 and 2, 3 and 1; the middle one falls behind.
    assert order_by_merit(comparison_merits([0.2, 0.6, 0.9], "fused", 1)).tolist() == [0, 2, 1]
    assert order_by_merit(comparison_merits([0.5, 0.5, 0.5], "fused")).tolist() == [0, 1, 2]
    merits = comparison_merits([0.1, NAN, 0.9, 0.8], "fused", 60)
    assert np.isnan(merits).tolist() == [False, True, False, False]
    assert merits[2] == pytest.approx(1 / 62 + 1 / 61)
    assert order_by_merit(merits).tolist() == [2, 1, 0, 3]
