"""Verification scores and the re-ranking of the head by them; the paper's stages 2 and 3.

Everything is elementwise arithmetic in float64, so that one query's figures do not depend on how
many are computed together. A verification that failed (NaN) is no "No": a candidate that could not
be checked keeps the place it had, and the checked ones are ordered among the other places.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import numpy as np
import numpy.typing as npt

VerifyMode = Literal["both", "visual", "textual"]
Scoring = Literal["hard", "soft"]
CompareOrder = Literal["accept", "probability", "fused"]
Scores = npt.NDArray[np.float64]
Positions = npt.NDArray[np.intp]

_YES = 0.5
_DECIMALS = 12  # products of equal factors must tie, whatever their order


def verification_scores(
    p_yes: npt.ArrayLike, expected: Sequence[bool], scoring: Scoring = "hard"
) -> Scores:
    """How well each candidate's answers satisfy the first, the first two, ... all propositions.

    hard: the fraction of propositions answered as expected, "yes" being P(yes) > 0.5.
    soft: the mean probability of the expected answer.

    Args:
        p_yes: P(yes), (candidates, propositions); a failed candidate is NaN.
        expected: the expected answer per proposition.
    Returns: float64 (propositions, candidates) in [0, 1] or NaN: entry q - 1 is the score by the
        first q propositions.
    Raises: ValueError: no propositions, or the two differ in number.
    """
    answers = np.asarray(p_yes, dtype=np.float64)
    if not expected:
        raise ValueError("there is no proposition to verify")
    if answers.ndim != 2 or answers.shape[1] != len(expected):
        raise ValueError(f"{len(expected)} propositions, but answers of shape {answers.shape}")
    wanted = np.asarray(expected, dtype=bool)
    if scoring == "hard":
        agreement = np.where((answers > _YES) == wanted, 1.0, 0.0)
        agreement[np.isnan(answers)] = np.nan
    else:
        agreement = np.where(wanted, answers, 1.0 - answers)
    counts = np.arange(1, len(wanted) + 1, dtype=np.float64)
    return np.ascontiguousarray((np.cumsum(agreement, axis=1) / counts).T)


def normalised_coarse_scores(coarse_scores: npt.ArrayLike) -> Scores:
    """s(j): the coarse scores of the head stretched to (0, 1], the last one positive.

    Min-max as though one more candidate stood an average step below the last: with the plain form
    the last of the head is multiplied by 0 and can never win. All equal -> all 1.
    """
    scores = np.asarray(coarse_scores, dtype=np.float64)
    if not len(scores):
        return scores
    low, high = scores.min(), scores.max()
    if high <= low:
        return np.ones_like(scores)
    step = (high - low) / len(scores)
    normalised: Scores = (scores - low + step) / (high - low + step)
    return normalised


def final_scores(
    coarse_scores: npt.ArrayLike,
    visual: Scores | None,
    textual: Scores | None,
    weights: tuple[float, float] = (0.5, 0.5),
    mode: VerifyMode = "both",
) -> Scores:
    """S_q(j) × s(j) of the head's candidates, NaN where a candidate could not be verified.

    S_q(j) = w_v · satisfied_v(j) + w_t · satisfied_t(j). Where one of the two failed, the other
    speaks with both weights.

    Args:
        coarse_scores: of the head (n,), descending.
        visual, textual: verification scores (..., n) in the same order; None = nothing is known.
            The one that `mode` leaves out is not looked at.
        weights: (w_v, w_t), not negative; used in mode "both" only.
    Raises: ValueError: lengths differ, or a weight is negative or both are 0.
    """
    by_mode = {"both": weights, "visual": (1.0, 0.0), "textual": (0.0, 1.0)}
    w_visual, w_textual = by_mode[mode]
    if min(w_visual, w_textual) < 0 or w_visual + w_textual <= 0:
        raise ValueError(f"weights {weights} must not be negative, and not both 0")
    coarse = normalised_coarse_scores(coarse_scores)
    unknown = np.full(len(coarse), np.nan)
    seen = visual if w_visual and visual is not None else unknown
    read = textual if w_textual and textual is not None else unknown
    for scores in (seen, read):
        if scores.shape[-1] != len(coarse):
            raise ValueError(f"{len(coarse)} candidates, but {scores.shape[-1]} scores")
    one = (w_visual + w_textual) * np.where(np.isnan(seen), read, seen)
    both = w_visual * seen + w_textual * read
    final: Scores = np.round(np.where(np.isnan(both), one, both) * coarse, _DECIMALS)
    return final


def order_by_merit(merits: Scores) -> Positions:
    """Positions (n,) by merit descending, ties in order; those without (NaN) stay where they are.

    The order of the head by final score is stage 2, that of the first α by `comparison_merits` is
    stage 3.
    """
    order = np.arange(len(merits))
    known = np.flatnonzero(~np.isnan(merits))
    order[known] = known[np.argsort(-merits[known], kind="stable")]
    return order


def comparison_merits(
    p_yes: npt.ArrayLike, order: CompareOrder = "accept", rrf_k: int = 60
) -> Scores:
    """What stage 3 orders the first α by; a failed comparison stays NaN.

    accept: 1 for accepted candidates (P(yes) > 0.5), which thus come first, in order; 0 for others.
    probability: P(yes) itself.
    fused: 1 / (k + rank before) + 1 / (k + rank by P(yes)), of those that did not fail; who has the
        same P(yes) has the same rank by it.

    Args:
        p_yes: of the first α (n,), in the order before.
    """
    p = np.asarray(p_yes, dtype=np.float64)
    if order == "probability":
        return p
    if order == "accept":
        return np.where(np.isnan(p), np.nan, (p > _YES).astype(np.float64))
    merits: Scores = np.full(len(p), np.nan)
    known = p[~np.isnan(p)]
    by_probability = 1 + (known[None, :] > known[:, None]).sum(axis=1)
    before = 1 + np.arange(len(known))
    fused = 1 / (rrf_k + before) + 1 / (rrf_k + by_probability)
    merits[~np.isnan(p)] = np.round(fused, _DECIMALS)
    return merits
