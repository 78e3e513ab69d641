"""Exact early stop of verification: which answers the best N of the head depend on.

A candidate can reach at most what it would with all missing answers as expected: its ceiling. As
soon as N candidates have scores that nobody else's ceiling exceeds, asking on changes nothing.
Captions are asked about before images: they are cheaper, and a caption that does not fit lowers the
ceiling, often so far that the image need not be looked at.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from shared.reranking import Positions, Scores, VerifyMode, final_scores

Mask = npt.NDArray[np.bool_]


class Known(NamedTuple):
    """What is known of the head's candidates (n,), in coarse order, by their images or captions.

    Attributes:
        scores: verification scores; NaN where one failed or was not asked about.
        asked: who was asked about, be it in vain.
    """

    scores: Scores
    asked: Mask


class Needed(NamedTuple):
    """Whose image and whose caption has to be looked at, as far as is known.

    Attributes:
        images, captions: of the head (n,), asked about or not. An image is not to be looked at
            before its caption was, where both count.
        order: positions of those that have not failed: first those of the first N of whom that is
            not certain yet, then by the most they can still reach, ties in coarse order.
        places: how many of them will be among the best. What is needed of the first so many is
            needed whatever the others' answers are.
    """

    images: Mask
    captions: Mask
    order: Positions
    places: int


def needed(
    coarse_scores: npt.ArrayLike,
    images: Known,
    captions: Known,
    best: int,
    weights: tuple[float, float] = (0.5, 0.5),
    mode: VerifyMode = "both",
) -> Needed:
    """What has to be looked at until the best N are those of full verification, in their order.

    The first N in coarse order are asked about until it is certain that they have not failed, as
    one that fails keeps its place among the best. Of all others only those are needed who could
    reach the N-th best score there is (with a tie, from a better place).

    The more is known, the less is needed. When all that is needed has been asked about, the best
    are certain, and what is needed depends on the answers alone: it is what would be looked at, one
    piece at a time, if whoever can reach most always came next. A smaller N needs nothing else.

    Args:
        best: N. All others as of `reranking.final_scores`.
    """
    coarse = np.asarray(coarse_scores, dtype=np.float64)
    looks = mode == "visual" or (mode == "both" and weights[0] > 0)
    reads = mode == "textual" or (mode == "both" and weights[1] > 0)
    perfect, failed = np.ones(len(coarse)), np.full(len(coarse), np.nan)

    def scores(seen: Scores, read: Scores) -> Scores:
        return final_scores(coarse, seen, read, weights, mode)

    final = scores(images.scores, captions.scores)
    at_first = scores(perfect, perfect)
    ceilings = at_first
    uncertain = unread = np.ones(len(coarse), dtype=bool)
    if reads:  # whatever the image shows, also if it fails and the caption speaks for both
        read = np.fmax(scores(perfect, captions.scores), scores(failed, captions.scores))
        ceilings = np.where(captions.asked, read, at_first)
        uncertain = np.isnan(captions.scores)
        unread = captions.asked & uncertain

    complete = (images.asked | (not looks)) & (captions.asked | (not reads))
    failures = complete & np.isnan(final)
    first = np.arange(len(coarse)) < best
    places = int(np.count_nonzero(first & ~failures))
    settled = np.where(complete & ~failures, final, -np.inf)
    reach = np.where(complete, final, np.where(first & uncertain, np.inf, ceilings))
    order = np.argsort(-reach, kind="stable")  # failures, NaN, come last
    return Needed(
        images=(_could_enter(ceilings, settled, places) | (first & unread)) & looks,
        captions=(_could_enter(at_first, settled, places) | first) & reads,
        order=order[: len(order) - np.count_nonzero(failures)],
        places=places,
    )


def _could_enter(ceilings: Scores, settled: Scores, places: int) -> Mask:
    """Whose ceiling reaches the last of the places that the best settled scores (n,) now hold."""
    if not places:
        return np.zeros(len(ceilings), dtype=bool)
    last = np.argsort(-settled, kind="stable")[places - 1]
    ties = (ceilings == settled[last]) & (np.arange(len(ceilings)) <= last)
    could: Mask = (ceilings > settled[last]) | ties
    return could
