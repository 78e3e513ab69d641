"""From a query's state to its rankings, stage by stage: pure, so that any stage can be replayed."""

from __future__ import annotations

from array import array
from collections.abc import Mapping, Sequence
from typing import TypeAlias

from broker.query_state import QueryState, Verification
from shared.contracts.skills import RankedList
from shared.fusion import Fused, fuse
from shared.knobs import Knobs
from shared.ranking import decode_list
from shared.reranking import compare_first, rerank, verification_score

COARSE, VERIFIED, COMPARED = "coarse", "verified", "compared"

Rankings: TypeAlias = "dict[str, array[int]]"  # array is generic for type checkers only
"""Stage -> int32 rows, best first; compact, as an evaluation holds those of all queries."""


def verifies(knobs: Knobs) -> bool:
    """Whether stage 2 runs."""
    return "verify" in knobs.stages


def compares(knobs: Knobs) -> bool:
    """Whether stage 3 runs."""
    return "compare" in knobs.stages


def rankings_by_stage(state: QueryState, knobs: Knobs) -> Rankings:
    """Every ranking of the gallery that a query has: baselines, single lists, and the stages.

    Stages: each list by its name ("image_only", "v1.hybrid", ...), "coarse" (what feeds the
    verification), "verified" and "compared" where the run has them. A failed query has none.
    """
    return _rankings(state, state.lists, knobs, head=knobs.top_k)


def subset_rankings_by_stage(state: QueryState, knobs: Knobs) -> Rankings:
    """The same rankings of the query's subset, all of which is verified; empty without a subset."""
    return _rankings(state, state.subset_lists, knobs, head=None)


def final_stage(knobs: Knobs) -> str:
    """The name of the last stage of a run with these knobs."""
    if compares(knobs):
        return COMPARED
    return VERIFIED if verifies(knobs) else COARSE


def candidates_to_verify(state: QueryState, knobs: Knobs) -> list[int]:
    """The best k' in coarse order, then the subset's members that are not among them."""
    if not verifies(knobs) or not state.propositions:
        return []
    head = [row for row, _ in coarse_ranking(state.lists, knobs)[: knobs.top_k]]
    if not state.subset_lists:
        return head
    known = set(head)
    return head + [row for row, _ in coarse_ranking(state.subset_lists, knobs) if row not in known]


def candidates_to_compare(state: QueryState, knobs: Knobs) -> list[int]:
    """The best α of the verified ranking (of the coarse one where nothing is verified)."""
    if not compares(knobs):
        return []
    coarse = coarse_ranking(state.lists, knobs)
    return _verified(state, coarse, knobs, knobs.top_k)[: knobs.compare_top]


def coarse_ranking(lists: Sequence[RankedList], knobs: Knobs) -> Fused:
    """(row, score), best first: what feeds verification, by `head_source`."""
    by_name = {ranked.name: decode_list(ranked) for ranked in lists}
    if knobs.head_list() != "fused":
        return fuse("none", [by_name[knobs.head_list()]])
    fused = [by_name[wanted.name] for wanted in knobs.fused_lists()]
    return fuse(knobs.fusion, fused, knobs.rrf_k)


def _rankings(
    state: QueryState, lists: Sequence[RankedList], knobs: Knobs, head: int | None
) -> Rankings:
    if state.status == "failed" or not lists:
        return {}
    rankings = {ranked.name: decode_list(ranked).rows.tolist() for ranked in lists}
    coarse = coarse_ranking(lists, knobs)
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
    best = coarse[:head]
    reranked = rerank(
        rows[: len(best)],
        [score for _, score in best],
        _satisfied(state, state.image_answers, rows[: len(best)], knobs),
        _satisfied(state, state.caption_answers, rows[: len(best)], knobs),
        weights=(knobs.visual_weight, knobs.textual_weight),
        mode=knobs.verify_mode,
    )
    return reranked.rows + rows[len(best) :]


def _satisfied(
    state: QueryState, answers: Verification | None, rows: Sequence[int], knobs: Knobs
) -> list[float | None]:
    """How well each row satisfies the propositions; None where it could not be verified."""
    expected = [proposition.expected for proposition in state.propositions]
    answered = _answered(answers)
    return [
        verification_score(answered[row], expected, knobs.scoring) if row in answered else None
        for row in rows
    ]


def _compared(state: QueryState, verified: list[int], head: int | None, knobs: Knobs) -> list[int]:
    answered = _answered(state.comparisons)
    alpha = min(knobs.compare_top, len(verified)) if head is not None else len(verified)
    p_yes = [answered[row][0] if row in answered else None for row in verified[:alpha]]
    return compare_first(verified, p_yes, soft=knobs.compare_soft)


def _answered(verification: Verification | None) -> Mapping[int, list[float]]:
    """row -> P(yes) per question, of the rows that could be verified."""
    if verification is None:
        return {}
    rows, p_yes = verification.table()
    failed = {row for row, _ in verification.failures}
    return {
        row: answers
        for row, answers in zip(rows.tolist(), p_yes.tolist(), strict=True)
        if row not in failed
    }
