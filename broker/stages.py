"""From a query's state to its rankings, stage by stage: pure, so that any stage can be replayed."""

from __future__ import annotations

from array import array
from collections.abc import Mapping, Sequence
from typing import NamedTuple, TypeAlias

import numpy as np
import numpy.typing as npt

from broker.query_state import QueryState, Verification
from shared.contracts.skills import RankedList
from shared.fusion import Fused, fuse
from shared.knobs import Knobs
from shared.ranking import decode_list
from shared.reranking import (
    Scores,
    comparison_merits,
    final_scores,
    order_by_merit,
    verification_scores,
)

COARSE, VERIFIED, COMPARED = "coarse", "verified", "compared"

Rankings: TypeAlias = "dict[str, array[int]]"  # array is generic for type checkers only
"""Stage -> int32 rows, best first; compact, as an evaluation holds those of all queries."""


Weights: TypeAlias = Mapping[str, float]
"""The lists that are fused, by name, and how much each counts (below 0: pushes down)."""


def verifies(knobs: Knobs) -> bool:
    """Whether stage 2 runs."""
    return "verify" in knobs.stages


def compares(knobs: Knobs) -> bool:
    """Whether stage 3 runs."""
    return "compare" in knobs.stages


def rankings_by_stage(state: QueryState, knobs: Knobs, weights: Weights | None = None) -> Rankings:
    """Every ranking of the gallery that a query has: baselines, single lists, and the stages.

    Stages: each list by its name ("image_only", "v1.hybrid", ...), "coarse" (what feeds the
    verification), "verified" and "compared" where the run has them. A failed query has none.

    Args:
        weights: of the fused lists, where a search has its own (here and below).
    """
    return _rankings(state, state.lists, knobs, head=knobs.top_k, weights=weights)


def subset_rankings_by_stage(state: QueryState, knobs: Knobs) -> Rankings:
    """The same rankings of the query's subset, all of which is verified; empty without a subset."""
    return _rankings(state, state.subset_lists, knobs, head=None)


def final_stage(knobs: Knobs) -> str:
    """The name of the last stage of a run with these knobs."""
    if compares(knobs):
        return COMPARED
    return VERIFIED if verifies(knobs) else COARSE


def candidates_to_verify(
    state: QueryState, knobs: Knobs, weights: Weights | None = None
) -> list[int]:
    """The best k' in coarse order, then the subset's members that are not among them."""
    if not verifies(knobs) or not state.propositions:
        return []
    coarse = coarse_ranking(state.lists, knobs, weights)
    subset = coarse_ranking(state.subset_lists, knobs) if state.subset_lists else []
    return verified_candidates(coarse, subset, knobs.top_k)


def verified_candidates(coarse: Fused, subset: Fused, top_k: int) -> list[int]:
    """The rows of the head, then those of the subset that are not among them."""
    head = [row for row, _ in coarse[:top_k]]
    known = set(head)
    return head + [row for row, _ in subset if row not in known]


def candidates_to_compare(
    state: QueryState, knobs: Knobs, weights: Weights | None = None
) -> list[int]:
    """The best α of the verified ranking (of the coarse one where nothing is verified)."""
    if not compares(knobs):
        return []
    coarse = coarse_ranking(state.lists, knobs, weights)
    return _verified(state, coarse, knobs, knobs.top_k)[: knobs.compare_top]


def coarse_ranking(
    lists: Sequence[RankedList], knobs: Knobs, weights: Weights | None = None
) -> Fused:
    """(row, score), best first: what feeds verification, by `head_source` or by weights."""
    by_name = {ranked.name: decode_list(ranked) for ranked in lists}
    if weights is not None:
        weighted = [by_name[name] for name in weights]
        return fuse(knobs.fusion, weighted, knobs.rrf_k, list(weights.values()))
    if knobs.head_list() != "fused":
        return fuse("none", [by_name[knobs.head_list()]])
    fused = [by_name[wanted.name] for wanted in knobs.fused_lists()]
    return fuse(knobs.fusion, fused, knobs.rrf_k)


def _rankings(
    state: QueryState,
    lists: Sequence[RankedList],
    knobs: Knobs,
    head: int | None,
    weights: Weights | None = None,
) -> Rankings:
    if state.status == "failed" or not lists:
        return {}
    rankings = {ranked.name: decode_list(ranked).rows.tolist() for ranked in lists}
    coarse = coarse_ranking(lists, knobs, weights)
    last = rankings[COARSE] = [row for row, _ in coarse]
    if verifies(knobs):
        last = rankings[VERIFIED] = _verified(state, coarse, knobs, head)
    if compares(knobs):
        rankings[COMPARED] = _compared(state, last, head, knobs)
    return {stage: array("i", rows) for stage, rows in rankings.items()}


def _verified(state: QueryState, coarse: Fused, knobs: Knobs, head: int | None) -> list[int]:
    """The head by verification score and coarse score; the tail follows in coarse order."""
    rows = [row for row, _ in coarse]
    if not verifies(knobs) or not state.propositions:
        return rows
    answers = HeadAnswers.of(state, knobs)
    return reranked(coarse, head, answers, [len(state.propositions)], knobs)[0]


def reranked(
    coarse: Fused, head: int | None, answers: HeadAnswers, questions: Sequence[int], knobs: Knobs
) -> list[list[int]]:
    """The verified ranking by the first q propositions, for each q of `questions`.

    Args:
        head: k'; None = all of `coarse`.
    """
    rows = [row for row, _ in coarse]
    best = np.array(rows[:head], dtype=np.int64)
    by_count = [count - 1 for count in questions]
    final = final_scores(
        [score for _, score in coarse[:head]],
        answers.visual.of_rows(best)[by_count],
        answers.textual.of_rows(best)[by_count],
        (knobs.visual_weight, knobs.textual_weight),
        knobs.verify_mode,
    )
    return [best[order_by_merit(scores)].tolist() + rows[len(best) :] for scores in final]


class HeadScores(NamedTuple):
    """What each candidate of the head is ranked by, NaN where it could not be verified.

    Attributes:
        rows: in coarse order.
        visual, textual: verification scores by image and by caption.
        final: their weighted sum times the normalised coarse score.
    """

    rows: list[int]
    visual: Scores
    textual: Scores
    final: Scores


def head_scores(state: QueryState, coarse: Fused, knobs: Knobs) -> HeadScores | None:
    """The figures behind the verified ranking; None where nothing was verified."""
    if not verifies(knobs) or not state.propositions:
        return None
    answers, all_of_them = HeadAnswers.of(state, knobs), len(state.propositions) - 1
    rows = [row for row, _ in coarse[: knobs.top_k]]
    best = np.array(rows, dtype=np.int64)
    visual = answers.visual.of_rows(best)[all_of_them]
    textual = answers.textual.of_rows(best)[all_of_them]
    final = final_scores(
        [score for _, score in coarse[: knobs.top_k]],
        visual,
        textual,
        (knobs.visual_weight, knobs.textual_weight),
        knobs.verify_mode,
    )
    return HeadScores(rows, visual, textual, final)


class AnswersByRow(NamedTuple):
    """Verification scores by row.

    Attributes:
        rows: int64, ascending.
        scores: float64 (propositions, rows + 1); the last column is NaN, for rows not known.
    """

    rows: npt.NDArray[np.int64]
    scores: Scores

    def of_rows(self, rows: npt.NDArray[np.int64]) -> Scores:
        """(propositions, rows), NaN where a row was not or could not be verified."""
        return self.scores[:, self._places(rows)]

    def holds(self, rows: npt.NDArray[np.int64]) -> npt.NDArray[np.bool_]:
        """Which of the rows were asked about."""
        held: npt.NDArray[np.bool_] = self._places(rows) < len(self.rows)
        return held

    def _places(self, rows: npt.NDArray[np.int64]) -> npt.NDArray[np.intp]:
        """The columns of `scores`; the last one for rows that are not known."""
        places = np.searchsorted(self.rows, rows)
        if not len(self.rows):
            return places
        found = self.rows[np.minimum(places, len(self.rows) - 1)] == rows
        return np.where(found, places, len(self.rows))


class HeadAnswers(NamedTuple):
    """How well candidates satisfy the propositions, by their images and by their captions."""

    visual: AnswersByRow
    textual: AnswersByRow

    @classmethod
    def of(cls, state: QueryState, knobs: Knobs) -> HeadAnswers:
        """Raises: ValueError: the state has no proposition."""
        return cls(
            _scored(state, state.image_answers, knobs), _scored(state, state.caption_answers, knobs)
        )


def _scored(state: QueryState, verification: Verification | None, knobs: Knobs) -> AnswersByRow:
    expected = [proposition.expected for proposition in state.propositions]
    if verification is None or not verification.rows:
        return AnswersByRow(np.empty(0, np.int64), np.full((len(expected), 1), np.nan))
    rows, p_yes = verification.table()
    order = np.argsort(rows, kind="stable")
    scores = verification_scores(p_yes[order], expected, knobs.scoring)
    unknown = np.full((len(expected), 1), np.nan)
    return AnswersByRow(rows[order].astype(np.int64), np.hstack([scores, unknown]))


def _compared(state: QueryState, verified: list[int], head: int | None, knobs: Knobs) -> list[int]:
    """The first α by comparison; the rest follows unchanged."""
    alpha = min(knobs.compare_top, len(verified)) if head is not None else len(verified)
    if state.comparisons is None or not state.comparisons.rows:
        return verified
    rows, p_yes = state.comparisons.table()
    known = dict(zip(rows.tolist(), p_yes[:, 0].tolist(), strict=True))
    first = [known.get(row, float("nan")) for row in verified[:alpha]]
    order = order_by_merit(comparison_merits(first, knobs.compare_soft))
    return [verified[place] for place in order] + verified[alpha:]
