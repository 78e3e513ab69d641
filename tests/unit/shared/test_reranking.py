"""Re-ranking: the two defects of the plain product, ties, and verifications that failed."""

from __future__ import annotations

import pytest

from shared.reranking import compare_first, normalised_coarse_scores, rerank, verification_score

HEAD = [40, 41, 42, 43]
COARSE = [0.9, 0.8, 0.7, 0.6]


def test_hard_counts_agreement_and_soft_averages_probability() -> None:
    p_yes, expected = [0.9, 0.4, 0.5], [True, False, True]
    # P(yes) = 0.5 is not a yes.
    assert verification_score(p_yes, expected) == pytest.approx(2 / 3)
    assert verification_score(p_yes, expected, "soft") == pytest.approx((0.9 + 0.6 + 0.5) / 3)
    with pytest.raises(ValueError, match="no proposition"):
        verification_score([], [])
    with pytest.raises(ValueError, match="argument 2"):
        verification_score([0.9], expected)


def test_the_last_of_the_head_can_win() -> None:
    assert normalised_coarse_scores(COARSE)[0] == 1.0
    assert normalised_coarse_scores(COARSE)[-1] == pytest.approx(1 / 5)
    reranked = rerank(HEAD, COARSE, [0.0, 0.0, 0.0, 1.0], [0.0, 0.0, 0.0, 1.0])
    assert reranked.rows == [43, 40, 41, 42]
    assert reranked.final_scores[0] == pytest.approx(1 / 5)


def test_candidates_that_satisfy_nothing_keep_their_coarse_order() -> None:
    assert rerank(HEAD, COARSE, [0.0] * 4, [0.0] * 4).rows == HEAD
    assert rerank(HEAD, [1.0] * 4, [0.5, 1.0, 0.5, 1.0], [0.5, 1.0, 0.5, 1.0]).rows == [
        41, 43, 40, 42,
    ]  # fmt: skip


def test_the_final_score_is_the_weighted_satisfaction_times_the_coarse_score() -> None:
    reranked = rerank(HEAD, COARSE, [0.0, 1.0, 0.0, 0.0], [1.0, 0.0, 0.0, 0.0], (0.25, 0.75))
    assert reranked.rows[:2] == [40, 41]
    assert reranked.final_scores[:2] == pytest.approx([0.75 * 1.0, 0.25 * (0.2 + 0.075) / 0.375])


def test_one_mode_does_not_look_at_the_other() -> None:
    verdicts = [0.0, 0.0, 0.0, 1.0]
    assert rerank(HEAD, COARSE, verdicts, [], mode="visual").rows[0] == 43
    assert rerank(HEAD, COARSE, [], verdicts, mode="textual").rows[0] == 43
    assert rerank(HEAD, COARSE, verdicts, [], mode="visual").unverified == []


def test_where_one_verification_failed_the_other_speaks_for_both() -> None:
    both = rerank(HEAD, COARSE, [1.0, 1.0, 1.0, 1.0], [1.0, 1.0, 1.0, 1.0])
    halved = rerank(HEAD, COARSE, [1.0, None, 1.0, 1.0], [1.0, 1.0, None, 1.0])
    assert halved == both


def test_an_unverified_candidate_keeps_its_place_and_is_named() -> None:
    reranked = rerank(HEAD, COARSE, [0.0, None, 0.0, 1.0], [0.0, None, 0.0, 1.0])
    assert reranked.rows == [43, 41, 40, 42]
    assert reranked.final_scores[1] is None
    assert reranked.unverified == [41]
    nothing: list[float | None] = [None] * 4
    assert rerank(HEAD, COARSE, nothing, nothing).rows == HEAD


def test_odd_heads_are_handled_or_refused() -> None:
    assert rerank([], [], [], []).rows == []
    assert rerank([7], [0.3], [1.0], [1.0]).final_scores == [1.0]
    with pytest.raises(ValueError, match="argument 2"):
        rerank(HEAD, COARSE, [1.0] * 3, [1.0] * 4)
    with pytest.raises(ValueError, match="weights"):
        rerank(HEAD, COARSE, [1.0] * 4, [1.0] * 4, (0.0, 0.0))


def test_accepted_candidates_move_to_the_front_in_order() -> None:
    ranking = [1, 2, 3, 4, 5]
    assert compare_first(ranking, [0.2, 0.6, 0.9]) == [2, 3, 1, 4, 5]
    assert compare_first(ranking, [0.2, 0.6, 0.9], soft=True) == [3, 2, 1, 4, 5]
    assert compare_first(ranking, [0.5, 0.5], soft=True) == ranking
    assert compare_first(ranking, []) == ranking


def test_a_failed_comparison_keeps_its_place() -> None:
    assert compare_first([1, 2, 3, 4], [None, 0.1, 0.9]) == [1, 3, 2, 4]
    assert compare_first([1, 2, 3, 4], [0.1, None, 0.9], soft=True) == [3, 2, 1, 4]
    with pytest.raises(ValueError, match="2 comparisons of a ranking of 1"):
        compare_first([1], [0.5, 0.5])
