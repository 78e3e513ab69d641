"""The similarity agent's arithmetic: rank a gallery by every list that queries ask for.

With e(x) the unit embedding of text x, v_j and u_j those of image j and of its caption:
    visual          mean_x e(x)·v_j
    textual         mean_x e(x)·u_j
    hybrid          (1-λ) mean_x e(x)·v_j + λ mean_x e(x)·u_j
    image_only      v_r·v_j                                    r the reference image
    text_only       the visual list of the modification text
    image_text_sum  unit(v_r + mean_x e(x))·v_j
The mean of the scores is the score of the mean vector, so that a list needs one vector, not one per
text, and all lists of all queries share one pass over each matrix (`exact_ranking`).

Scores are rounded to 6 decimals before rows are selected: float32 sums of 512 products carry about
1e-7 of noise that differs between processors, and equal images must tie on all of them. Ties go to
the lower row. A query's bytes do not depend on which other queries are ranked with it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from shared.contracts.skills import GalleryRanked, ListRequest, RankedList, RankGallery
from shared.errors import ItemError
from shared.gallery_index import EmbeddedGallery, ExactIndex, GalleryIndex
from shared.ranking_layout import Matrix, StoredMatrix, Wanted
from shared.scored_keys import ScoredRows

_TINY = 1e-12
_LONGEST = 1.0 + 1e-3
"""A mean of unit vectors is no longer than 1."""
_NOTHING = ScoredRows(np.empty(0, np.int32), np.empty(0, np.float32))


class Ranked(NamedTuple):
    """A request to be ranked, and the unit embedding of each of its texts (float32 bytes, LE)."""

    request: RankGallery
    text_embeddings: Mapping[str, bytes]


def encode_list(name: str, ranking: ScoredRows) -> RankedList:
    rows = ranking.rows.astype("<i4").tobytes()
    return RankedList(name, rows, ranking.scores.astype("<f4").tobytes())


def decode_list(ranked: RankedList) -> ScoredRows:
    """Raises: ItemError: rows and scores differ in number."""
    rows = np.frombuffer(ranked.rows, dtype="<i4")
    scores = np.frombuffer(ranked.scores, dtype="<f4")
    if len(rows) != len(scores):
        raise ItemError(f"list {ranked.name!r} has {len(rows)} rows and {len(scores)} scores")
    return ScoredRows(rows.astype(np.int32), scores.astype(np.float32))


def rank_gallery(
    request: RankGallery, gallery: EmbeddedGallery, text_embeddings: Mapping[str, bytes]
) -> GalleryRanked:
    """The answer to one request; see `rank_galleries`.

    Raises: ItemError: the request cannot be ranked.
    """
    (outcome,) = rank_galleries([Ranked(request, text_embeddings)], gallery)
    if isinstance(outcome, ItemError):
        raise outcome
    return outcome


def rank_galleries(
    asked: Sequence[Ranked], gallery: EmbeddedGallery, index: GalleryIndex | None = None
) -> list[GalleryRanked | ItemError]:
    """The answers to requests about one gallery: what the similarity agent says, and what a replay
    says again. All are ranked in one pass.

    Args:
        index: of this gallery; None = the exact one.
    Returns: one outcome per request, in order. An error is: an unknown text set, a text without
        embedding, a row out of range, a missing reference.
    Raises: what the index raises.
    """
    wanted = [_wanted_or_error(one, gallery) for one in asked]
    distinct = dict.fromkeys(
        one for of in wanted if not isinstance(of, ItemError) for one in of if one is not None
    )
    depth = max((one.request.depth for one in asked), default=1)
    rankings = (index or ExactIndex(gallery)).rank(list(distinct), depth)
    best = dict(zip(distinct, rankings, strict=True))
    return [
        of if isinstance(of, ItemError) else _answer(one, of, best)
        for one, of in zip(asked, wanted, strict=True)
    ]


def _answer(
    asked: Ranked, wanted: Sequence[Wanted | None], best: Mapping[Wanted, ScoredRows]
) -> GalleryRanked:
    request = asked.request
    lists = []
    for of, one in zip(request.lists, wanted, strict=True):
        found = _NOTHING if one is None else best[one]
        cut = ScoredRows(found.rows[: request.depth], found.scores[: request.depth])
        lists.append(encode_list(of.name, cut))
    texts = dict.fromkeys(text for texts in request.text_sets.values() for text in texts)
    return GalleryRanked(tuple(lists), {text: asked.text_embeddings[text] for text in texts})


def _wanted_or_error(asked: Ranked, gallery: EmbeddedGallery) -> list[Wanted | None] | ItemError:
    try:
        return _wanted(asked, gallery)
    except ItemError as error:
        return error


def _wanted(asked: Ranked, gallery: EmbeddedGallery) -> list[Wanted | None]:
    """What each list of a request is ranked by; None = an image baseline whose reference has no
    embedding, which is empty.

    Raises: ItemError: the request cannot be ranked.
    """
    request = asked.request
    rows = len(gallery.image_embeddings)
    _check_rows("excluded", request.excluded_rows, rows)
    _check_rows("subset", request.subset_rows or (), rows)
    subset = None if request.subset_rows is None else tuple(sorted(set(request.subset_rows)))
    wanted: list[Wanted | None] = []
    for one in request.lists:
        vector = _query_vector(one, asked, gallery.image_embeddings)
        image_weight, caption_weight = _weights(one, request.text_weight)
        wanted.append(
            Wanted(
                vector.astype("<f4").tobytes(),
                image_weight,
                caption_weight,
                tuple(sorted(set(request.excluded_rows))),
                subset,
            )
            if vector.any()
            else None
        )
    return wanted


def _check_rows(name: str, given: Sequence[int], rows: int) -> None:
    wrong = [row for row in given if not 0 <= row < rows]
    if wrong:
        raise ItemError(f"{name} row {wrong[0]} is outside the gallery of {rows} rows")


def _weights(wanted: ListRequest, text_weight: float) -> tuple[float, float]:
    """Of the image's and of the caption's similarity."""
    if wanted.kind == "hybrid":
        return 1.0 - text_weight, text_weight
    return (0.0, 1.0) if wanted.kind == "textual" else (1.0, 0.0)


def _query_vector(wanted: ListRequest, asked: Ranked, image_embeddings: StoredMatrix) -> Matrix:
    """What the rows are multiplied with; all zero when the reference has no embedding."""
    row = asked.request.reference_row
    if wanted.kind == "image_only":
        return _reference(wanted, image_embeddings, row)
    vector = _mean_text(wanted, asked)
    # A vector with a NaN in it has a length of NaN, which is not within any bound.
    fits = vector.shape == image_embeddings.shape[1:] and np.linalg.norm(vector) <= _LONGEST
    if not fits:
        raise ItemError(f"list {wanted.name!r}: its text embeddings do not fit the image database")
    if wanted.kind != "image_text_sum":
        return vector
    reference = _reference(wanted, image_embeddings, row)
    total = vector + reference if reference.any() else np.zeros_like(vector)
    length = max(float(np.linalg.norm(total)), _TINY)
    unit: Matrix = np.divide(total, length, dtype=np.float32)
    return unit


def _reference(wanted: ListRequest, image_embeddings: StoredMatrix, row: int | None) -> Matrix:
    if row is None or not 0 <= row < len(image_embeddings):
        raise ItemError(f"list {wanted.name!r} needs a reference image; its row is {row}")
    return np.array(image_embeddings[row], dtype=np.float32)


def _mean_text(wanted: ListRequest, asked: Ranked) -> Matrix:
    text_set = wanted.text_set or "text"
    texts = asked.request.text_sets.get(text_set)
    if not texts:
        raise ItemError(f"list {wanted.name!r}: text set {text_set!r} has no embedding")
    unknown = [text for text in texts if text not in asked.text_embeddings]
    if unknown:
        raise ItemError(f"the text {unknown[0]!r} has no embedding")
    embeddings = [asked.text_embeddings[text] for text in texts]
    if len({len(embedding) for embedding in embeddings}) > 1:
        raise ItemError(f"list {wanted.name!r}: its text embeddings differ in length")
    summed: npt.NDArray[np.float64] = np.sum(
        [np.frombuffer(embedding, "<f4") for embedding in embeddings], axis=0, dtype=np.float64
    )
    return (summed / len(embeddings)).astype(np.float32)
