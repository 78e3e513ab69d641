"""Why an image is where it is: a query's state, told image by image."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import msgspec

from broker.query_state import QueryState, Verification
from broker.stages import (
    Weights,
    coarse_ranking,
    final_stage,
    head_scores,
    rankings_by_stage,
)
from shared.contracts.skills import Edit, Proposition
from shared.knobs import Knobs
from shared.ranking import decode_list


class ImaginedFromText(msgspec.Struct, frozen=True):
    edits: tuple[Edit, ...]
    captions: tuple[str, ...]


class ImaginedFromImage(msgspec.Struct, frozen=True):
    existent: tuple[str, ...]
    nonexistent: tuple[str, ...]
    caption: str


class Imagination(msgspec.Struct, frozen=True, kw_only=True):
    """What was imagined; None where an imagination was switched off."""

    reference_caption: str = ""
    text: ImaginedFromText | None = None
    image: ImaginedFromImage | None = None


class ListShown(msgspec.Struct, frozen=True):
    """A list the gallery was ranked by, and its weight in the fusion; 0 = recorded only."""

    name: str
    weight: float


class Hit(msgspec.Struct, frozen=True, kw_only=True):
    """One image found. What was not asked, or not answered, is None.

    Attributes:
        rank, coarse_rank: 1-based, in the last stage and in the fused ranking.
        coarse_score: the score of the fused ranking that fed verification.
        ranks: list -> 1-based rank; a list that does not hold the image is left out.
        image_answers, caption_answers: P(yes) of each proposition.
        image_score, caption_score: how well they satisfy the propositions, in [0, 1].
        final_score: verification score × normalised coarse score.
        comparison: P(yes) that it is the reference with the change made.
    """

    rank: int
    image_id: str
    caption: str | None = None
    coarse_rank: int | None = None
    coarse_score: float | None = None
    ranks: dict[str, int] = {}
    image_answers: tuple[float, ...] | None = None
    caption_answers: tuple[float, ...] | None = None
    image_score: float | None = None
    caption_score: float | None = None
    final_score: float | None = None
    comparison: float | None = None


class CandidateFailure(msgspec.Struct, frozen=True):
    """A candidate that could not be checked; it keeps the place it had."""

    skill: str
    image_id: str
    reason: str


class Evidence(msgspec.Struct, frozen=True, kw_only=True):
    """A ranking, best first, and what led to it."""

    stage: str
    hits: tuple[Hit, ...]
    imagination: Imagination
    description: str = ""
    propositions: tuple[Proposition, ...] = ()
    lists: tuple[ListShown, ...] = ()
    fallbacks: tuple[str, ...] = ()
    failures: tuple[CandidateFailure, ...] = ()


def evidence_of(
    state: QueryState,
    knobs: Knobs,
    k: int,
    image_id: Callable[[int], str],
    caption_of: Callable[[int], str | None],
    *,
    weights: Weights | None = None,
    stage: str = "",
    reference_caption: str = "",
) -> Evidence:
    """The best k of a stage, each with everything that is known about it.

    Args:
        image_id, caption_of: by row.
        weights: of the fused lists, where the search had its own.
        stage: "coarse", "verified" or "compared"; empty = the last one that the knobs have.
    """
    stage = stage or final_stage(knobs)
    rankings = rankings_by_stage(state, knobs, weights)
    rows = list(rankings.get(stage, ())[:k])
    coarse = coarse_ranking(state.lists, knobs, weights) if state.lists else []
    place = {row: (rank, score) for rank, (row, score) in enumerate(coarse, start=1)}
    by_list = _ranks_by_list(state, rows)
    scores = _scores_by_row(state, coarse, knobs)
    by_image, by_caption = _answers(state.image_answers), _answers(state.caption_answers)
    compared = _answers(state.comparisons)
    hits = []
    for rank, row in enumerate(rows, start=1):
        visual, textual, final = scores.get(row, (None, None, None))
        hits.append(
            Hit(
                rank=rank,
                image_id=image_id(row),
                caption=caption_of(row),
                coarse_rank=place[row][0] if row in place else None,
                coarse_score=place[row][1] if row in place else None,
                ranks=by_list[row],
                image_answers=by_image.get(row),
                caption_answers=by_caption.get(row),
                image_score=visual,
                caption_score=textual,
                final_score=final,
                comparison=compared[row][0] if row in compared else None,
            )
        )
    return Evidence(
        stage=stage,
        hits=tuple(hits),
        imagination=_imagination(state, reference_caption),
        description=state.description,
        propositions=state.propositions,
        lists=_lists(state, knobs, weights),
        fallbacks=state.fallbacks,
        failures=tuple(
            CandidateFailure(skill, image_id(row), reason)
            for skill, row, reason in state.item_failures
        ),
    )


def _imagination(state: QueryState, reference_caption: str) -> Imagination:
    text, image = state.text, state.image
    return Imagination(
        reference_caption=reference_caption,
        text=None if text is None else ImaginedFromText(text.edits, text.captions),
        image=None
        if image is None
        else ImaginedFromImage(image.existent, image.nonexistent, image.caption),
    )


def _lists(state: QueryState, knobs: Knobs, weights: Weights | None) -> tuple[ListShown, ...]:
    if weights is None:
        head = knobs.head_list()
        names = [one.name for one in knobs.fused_lists()] if head == "fused" else [head]
        weights = dict.fromkeys(names, 1.0)
    return tuple(ListShown(one.name, weights.get(one.name, 0.0)) for one in state.lists)


def _ranks_by_list(state: QueryState, rows: Sequence[int]) -> dict[int, dict[str, int]]:
    wanted: dict[int, dict[str, int]] = {row: {} for row in rows}
    for ranked in state.lists:
        for rank, row in enumerate(decode_list(ranked).rows.tolist(), start=1):
            if row in wanted:
                wanted[row][ranked.name] = rank
    return wanted


def _scores_by_row(
    state: QueryState, coarse: list[tuple[int, float]], knobs: Knobs
) -> dict[int, tuple[float | None, float | None, float | None]]:
    found = head_scores(state, coarse, knobs)
    if found is None:
        return {}
    columns = [
        [None if math.isnan(value) else value for value in scores.tolist()]
        for scores in (found.visual, found.textual, found.final)
    ]
    return dict(zip(found.rows, zip(*columns, strict=True), strict=True))


def _answers(verification: Verification | None) -> dict[int, tuple[float, ...]]:
    """row -> P(yes) per question, of the rows that could be asked about."""
    if verification is None:
        return {}
    rows, p_yes = verification.table()
    failed = {row for row, _ in verification.failures}
    return {
        row: tuple(answers)
        for row, answers in zip(rows.tolist(), p_yes.tolist(), strict=True)
        if row not in failed
    }
