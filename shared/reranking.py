"""Verification scores and the re-ranking of the head by them; the paper's stages 2 and 3.

A verification that failed is no "No": a candidate that could not be checked keeps the place it had,
and the checked ones are ordered among the other places.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, NamedTuple

VerifyMode = Literal["both", "visual", "textual"]
Scoring = Literal["hard", "soft"]

_YES = 0.5
_DECIMALS = 12  # products of equal factors must tie, whatever their order


class Reranked(NamedTuple):
    """The head after verification.

    Attributes:
        rows: the head's rows in their new order.
        final_scores: one per entry of `rows`; None where the candidate was not verified.
        unverified: rows whose verification failed, in coarse order: to be recorded.
    """

    rows: list[int]
    final_scores: list[float | None]
    unverified: list[int]


def verification_score(
    p_yes: Sequence[float], expected: Sequence[bool], scoring: Scoring = "hard"
) -> float:
    """How well the answers about one candidate satisfy the propositions, in [0, 1].

    hard: the fraction of propositions answered as expected, "yes" being P(yes) > 0.5.
    soft: the mean probability of the expected answer.

    Args:
        p_yes: P(yes) per proposition.
        expected: the expected answer per proposition, in the same order.
    Raises: ValueError: no propositions, or the two differ in length.
    """
    if not expected:
        raise ValueError("there is no proposition to verify")
    if scoring == "hard":
        agreement = [float((p > _YES) == want) for p, want in zip(p_yes, expected, strict=True)]
    else:
        agreement = [p if want else 1.0 - p for p, want in zip(p_yes, expected, strict=True)]
    return sum(agreement) / len(agreement)


def normalised_coarse_scores(coarse_scores: Sequence[float]) -> list[float]:
    """s(j): the coarse scores of the head stretched to (0, 1], the last one positive.

    Min-max as though one more candidate stood an average step below the last: with the plain form
    the last of the head is multiplied by 0 and can never win. All equal -> all 1.
    """
    if not coarse_scores:
        return []
    low, high = min(coarse_scores), max(coarse_scores)
    if high <= low:
        return [1.0] * len(coarse_scores)
    step = (high - low) / len(coarse_scores)
    return [(score - low + step) / (high - low + step) for score in coarse_scores]


def rerank(
    head_rows: Sequence[int],
    coarse_scores: Sequence[float],
    visual: Sequence[float | None],
    textual: Sequence[float | None],
    weights: tuple[float, float] = (0.5, 0.5),
    mode: VerifyMode = "both",
) -> Reranked:
    """Order the head by S_q(j) × s(j), ties by coarse rank.

    S_q(j) = w_v · satisfied_v(j) + w_t · satisfied_t(j). Where one of the two failed, the other
    speaks with both weights; where both failed the candidate keeps its place.

    Args:
        head_rows: the best k' rows, in coarse order.
        coarse_scores: their coarse scores, descending.
        visual, textual: verification score per row in the same order, None where it failed. The one
            that `mode` leaves out is not looked at and may be empty.
        weights: (w_v, w_t), not negative; used in mode "both" only.
    Raises: ValueError: lengths differ, or a weight is negative or both are 0.
    """
    w_visual, w_textual = weights if mode == "both" else (float(mode == "visual"), 0.0)
    if mode == "textual":
        w_visual, w_textual = 0.0, 1.0
    if min(w_visual, w_textual) < 0 or w_visual + w_textual <= 0:
        raise ValueError(f"weights {weights} must not be negative, and not both 0")
    nothing: list[float | None] = [None] * len(head_rows)
    combined = [
        _combined(v, t, w_visual, w_textual)
        for v, t in zip(
            visual if w_visual else nothing, textual if w_textual else nothing, strict=True
        )
    ]
    final = [
        None if satisfied is None else round(satisfied * coarse, _DECIMALS)
        for satisfied, coarse in zip(combined, normalised_coarse_scores(coarse_scores), strict=True)
    ]
    if len(final) != len(head_rows):
        raise ValueError(f"{len(head_rows)} rows but {len(final)} verification scores")
    order = _order_among_known(final)
    return Reranked(
        rows=[head_rows[position] for position in order],
        final_scores=[final[position] for position in order],
        unverified=[row for row, score in zip(head_rows, final, strict=True) if score is None],
    )


def compare_first(
    ranking: Sequence[int], p_yes: Sequence[float | None], soft: bool = False
) -> list[int]:
    """Stage 3 on the first α of a ranking; the rest follows unchanged.

    hard: accepted candidates (P(yes) > 0.5) move to the front, in order. soft: the first α are
    ordered by P(yes), ties in order. A failed comparison (None) keeps its place.

    Args:
        ranking: rows, best first, at least α long.
        p_yes: P(yes) of the first α = len(p_yes).
    Raises: ValueError: more comparisons than rows.
    """
    if len(p_yes) > len(ranking):
        raise ValueError(f"{len(p_yes)} comparisons of a ranking of {len(ranking)}")
    merits = [p if p is None or soft else float(p > _YES) for p in p_yes]
    return [ranking[position] for position in _order_among_known(merits)] + list(
        ranking[len(p_yes) :]
    )


def _combined(
    visual: float | None, textual: float | None, w_visual: float, w_textual: float
) -> float | None:
    if visual is not None and textual is not None:
        return w_visual * visual + w_textual * textual
    known = visual if textual is None else textual
    return None if known is None else (w_visual + w_textual) * known


def _order_among_known(merits: Sequence[float | None]) -> list[int]:
    """Positions by merit descending, ties in order; positions without merit stay where they are."""
    known = [(merit, position) for position, merit in enumerate(merits) if merit is not None]
    by_merit = iter(sorted(known, key=lambda entry: (-entry[0], entry[1])))
    return [
        position if merit is None else next(by_merit)[1] for position, merit in enumerate(merits)
    ]
