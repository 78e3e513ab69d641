"""The similarity agent's arithmetic: rank a gallery by every list one query asks for.

With e(x) the unit embedding of text x, v_j and u_j those of image j and of its caption:
    visual          mean_x e(x)·v_j
    textual         mean_x e(x)·u_j
    hybrid          (1-λ) mean_x e(x)·v_j + λ mean_x e(x)·u_j
    image_only      v_r·v_j                                    r the reference image
    text_only       the visual list of the modification text
    image_text_sum  unit(v_r + mean_x e(x))·v_j
The mean of the scores is the score of the mean vector, so that a list needs one vector, not one per
text, and all lists of a query share one pass over each matrix.

Scores are rounded to 6 decimals before rows are selected: float32 sums of 512 products carry about
1e-7 of noise that differs between processors, and equal images must tie on all of them. Ties go to
the lower row. A query is multiplied alone, in blocks of one fixed shape: its bytes do not depend on
which other queries were ranked with it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Literal, NamedTuple, Protocol

import numpy as np
import numpy.typing as npt

from shared.contracts.skills import GalleryRanked, ListRequest, RankedList, RankGallery
from shared.errors import ItemError

Matrix = npt.NDArray[np.float32]
Rows = npt.NDArray[np.int64]
_MatrixName = Literal["image", "caption"]

SCORE_DECIMALS = 6
_BLOCK_ROWS = 1024  # 2 MB of 512 dimensions: a block stays in the cache while it is multiplied
_VECTORS = 8  # query vectors are multiplied in groups of so many, the last one padded with zeros


class ScoredRows(NamedTuple):
    """A ranking as numbers: int32 rows, best first, and their float32 scores."""

    rows: npt.NDArray[np.int32]
    scores: npt.NDArray[np.float32]


class _Term(NamedTuple):
    """One summand of a list's score: weight × (vector · row of the matrix)."""

    matrix: _MatrixName
    vector: str
    weight: float


class _Similarities(NamedTuple):
    """Scores of the ranked rows by query vector, and positions of rows without an embedding."""

    by_vector: dict[str, Matrix]
    missing: Rows


_TINY = 1e-12


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


class EmbeddedGallery(Protocol):
    """What is needed of an image database (`shared.image_database.ImageDatabase` has it)."""

    @property
    def image_embeddings(self) -> Matrix: ...
    @property
    def caption_embeddings(self) -> Matrix: ...
    @property
    def searchable(self) -> int: ...


def rank_gallery(
    request: RankGallery, gallery: EmbeddedGallery, text_embeddings: Mapping[str, bytes]
) -> GalleryRanked:
    """The answer to a request: what the similarity agent says, and what a replay says again.

    Args:
        text_embeddings: text -> unit embedding, little-endian float32; of every text in the
            request's text sets.
    Raises: ItemError: as `GalleryScores`, or a text has no embedding.
    """
    scores = gallery_scores(request, gallery, text_embeddings)
    texts = dict.fromkeys(text for texts in request.text_sets.values() for text in texts)
    return GalleryRanked(
        tuple(scores.ranked(request.text_weight, request.depth)),
        {text: text_embeddings[text] for text in texts},
    )


def gallery_scores(
    request: RankGallery, gallery: EmbeddedGallery, text_embeddings: Mapping[str, bytes]
) -> GalleryScores:
    """What a request's lists are ranked from; its λ and depth are not looked at.

    Raises: ItemError: as `rank_gallery`.
    """
    unknown = [
        text
        for texts in request.text_sets.values()
        for text in texts
        if text not in text_embeddings
    ]
    if unknown:
        raise ItemError(f"the text {unknown[0]!r} has no embedding")
    return GalleryScores(
        gallery.image_embeddings,
        gallery.caption_embeddings,
        gallery.searchable,
        request.lists,
        {
            name: np.stack([np.frombuffer(text_embeddings[text], dtype="<f4") for text in texts])
            for name, texts in request.text_sets.items()
            if texts
        },
        request.excluded_rows,
        request.subset_rows,
        request.reference_row,
    )


def rank_lists(
    image_embeddings: Matrix,
    caption_embeddings: Matrix,
    searchable: int,
    lists: Sequence[ListRequest],
    text_embeddings: Mapping[str, Matrix],
    text_weight: float,
    depth: int,
    excluded_rows: Sequence[int] = (),
    subset_rows: Sequence[int] | None = None,
    reference_row: int | None = None,
) -> list[RankedList]:
    """The best rows of every list asked for, for one query: `GalleryScores` ranked once.

    Args:
        text_weight: λ of the hybrid lists.
        depth: rows returned per list at most; fewer when the gallery is smaller.
    Returns: one RankedList per list, in the order asked, by (score descending, row ascending).
    Raises: ItemError: an unknown text set, a row out of range, a missing reference, depth < 1.
    """
    return GalleryScores(
        image_embeddings,
        caption_embeddings,
        searchable,
        lists,
        text_embeddings,
        excluded_rows,
        subset_rows,
        reference_row,
    ).ranked(text_weight, depth)


class GalleryScores:
    """One query's products with a gallery, which its lists are ranked from at any λ and depth.

    A list ranks only rows that have every embedding it scores with: a failed row (all zero) is
    never placed above a real one. An image baseline whose reference has no embedding is empty.
    """

    def __init__(
        self,
        image_embeddings: Matrix,
        caption_embeddings: Matrix,
        searchable: int,
        lists: Sequence[ListRequest],
        text_embeddings: Mapping[str, Matrix],
        excluded_rows: Sequence[int] = (),
        subset_rows: Sequence[int] | None = None,
        reference_row: int | None = None,
    ) -> None:
        """Nothing is multiplied before a list needs it.

        Args:
            image_embeddings, caption_embeddings: float32 (rows, dimensions), unit or zero rows.
            searchable: rows from here on are never ranked.
            text_embeddings: text set -> float32 (texts, dimensions), unit rows. The baselines use
                set "text" (the modification text) unless the list names another.
            excluded_rows: never ranked.
            subset_rows: when given, only these are ranked.
            reference_row: row of the reference image, needed by image_only and image_text_sum.
        Raises: ItemError: an unknown text set, a row out of range, a missing reference.
        """
        self._lists = lists
        self._rows, self._left_out = _rankable_rows(
            len(image_embeddings), searchable, excluded_rows, subset_rows
        )
        selected = None if subset_rows is None else self._rows
        self._ranked_part: dict[_MatrixName, Callable[[], Matrix]] = {
            "image": lambda: _part(image_embeddings, searchable, selected),
            "caption": lambda: _part(caption_embeddings, searchable, selected),
        }
        vectors: dict[str, Matrix] = {}
        for wanted in lists:
            if (name := _vector_name(wanted)) not in vectors:
                vectors[name] = _query_vector(
                    wanted, text_embeddings, image_embeddings, reference_row
                )
        self._vectors = {name: vector for name, vector in vectors.items() if vector.any()}
        self._similarities: dict[_MatrixName, _Similarities] = {}

    def ranked(self, text_weight: float, depth: int) -> list[RankedList]:
        """The lists, in the order asked, each by (score descending, row ascending).

        Raises: ItemError: depth < 1, or λ is not in [0, 1].
        """
        if depth < 1:
            raise ItemError(f"depth is {depth}; at least 1 row must be asked for")
        if not 0.0 <= text_weight <= 1.0:
            raise ItemError(f"text_weight is {text_weight}; it lies between 0 and 1")
        ranked = []
        for wanted in self._lists:
            terms = _terms(wanted, text_weight)
            best = ScoredRows(np.empty(0, np.int32), np.empty(0, np.float32))
            if terms[0].vector in self._vectors:
                missing = [self._of(term.matrix).missing for term in terms]
                left_out = np.concatenate([self._left_out, *missing])
                best = best_rows(self._weighted_sum(terms), self._rows, depth, left_out)
            ranked.append(encode_list(wanted.name, best))
        return ranked

    def _of(self, matrix: _MatrixName) -> _Similarities:
        """Products of the rows with every vector some list needs of this matrix, in one pass."""
        if matrix not in self._similarities:
            names = dict.fromkeys(
                _vector_name(wanted) for wanted in self._lists if matrix in _matrices(wanted)
            )
            vectors = {name: self._vectors[name] for name in names if name in self._vectors}
            self._similarities[matrix] = _similarities(self._ranked_part[matrix](), vectors)
        return self._similarities[matrix]

    def _weighted_sum(self, terms: Sequence[_Term]) -> Matrix:
        first, *others = [
            self._of(term.matrix).by_vector[term.vector] * np.float32(term.weight) for term in terms
        ]
        for other in others:
            first += other
        return first


def best_rows(scores: Matrix, rows: Rows, depth: int, left_out: Rows | None = None) -> ScoredRows:
    """The `depth` best of `rows` by (score rounded to 6 decimals descending, row ascending).

    Score and row are packed into one integer each, so that every key is different and selection has
    exactly one outcome, whatever algorithm selects.

    Args:
        scores: float32, one per entry of `rows`.
        left_out: positions in `rows` that are not ranked.
    """
    micro = np.rint(scores.astype(np.float64) * 10**SCORE_DECIMALS).astype(np.int64)
    keys = (-micro << 32) | rows
    if left_out is not None and len(left_out):
        keys = np.delete(keys, left_out)
    if depth < len(keys):
        keys = np.partition(keys, depth - 1)[:depth]
    keys.sort()
    best_scores = -(keys >> 32) / 10**SCORE_DECIMALS
    return ScoredRows((keys & 0xFFFFFFFF).astype(np.int32), best_scores.astype(np.float32))


def _rankable_rows(
    n_rows: int, searchable: int, excluded: Sequence[int], subset: Sequence[int] | None
) -> tuple[Rows, Rows]:
    """The rows that are multiplied, ascending, and the positions of the excluded among them."""
    for name, given in (("excluded", excluded), ("subset", subset or ())):
        wrong = [row for row in given if not 0 <= row < n_rows]
        if wrong:
            raise ItemError(f"{name} row {wrong[0]} is outside the gallery of {n_rows} rows")
    if subset is None:
        rows = np.arange(searchable, dtype=np.int64)
    else:
        rows = np.array(sorted({row for row in subset if row < searchable}), dtype=np.int64)
    return rows, np.flatnonzero(np.isin(rows, excluded)).astype(np.int64)


def _matrices(wanted: ListRequest) -> tuple[_MatrixName, ...]:
    """What a list scores with, at some λ."""
    if wanted.kind == "hybrid":
        return ("image", "caption")
    return ("caption",) if wanted.kind == "textual" else ("image",)


def _terms(wanted: ListRequest, text_weight: float) -> list[_Term]:
    name = _vector_name(wanted)
    if wanted.kind == "textual":
        return [_Term("caption", name, 1.0)]
    if wanted.kind == "hybrid":
        weighted = [
            _Term("image", name, 1.0 - text_weight),
            _Term("caption", name, text_weight),
        ]
        return [term for term in weighted if term.weight != 0.0]
    return [_Term("image", name, 1.0)]


def _vector_name(wanted: ListRequest) -> str:
    if wanted.kind == "image_only":
        return "image:"
    if wanted.kind == "image_text_sum":
        return f"sum:{wanted.text_set or 'text'}"
    return f"text:{wanted.text_set or 'text'}"


def _query_vector(
    wanted: ListRequest,
    text_embeddings: Mapping[str, Matrix],
    image_embeddings: Matrix,
    reference_row: int | None,
) -> Matrix:
    """What the rows are multiplied with; all zero when the reference has no embedding."""
    if wanted.kind == "image_only":
        return _reference(wanted, image_embeddings, reference_row)
    vector = _mean_text(wanted, text_embeddings)
    if vector.shape != image_embeddings.shape[1:] or not np.isfinite(vector).all():
        raise ItemError(f"list {wanted.name!r}: its text embeddings do not fit the image database")
    if wanted.kind != "image_text_sum":
        return vector
    reference = _reference(wanted, image_embeddings, reference_row)
    total = vector + reference if reference.any() else np.zeros_like(vector)
    length = max(float(np.linalg.norm(total)), _TINY)
    unit: Matrix = np.divide(total, length, dtype=np.float32)
    return unit


def _reference(wanted: ListRequest, image_embeddings: Matrix, row: int | None) -> Matrix:
    if row is None or not 0 <= row < len(image_embeddings):
        raise ItemError(f"list {wanted.name!r} needs a reference image; its row is {row}")
    return np.array(image_embeddings[row], dtype=np.float32)


def _mean_text(wanted: ListRequest, text_embeddings: Mapping[str, Matrix]) -> Matrix:
    text_set = wanted.text_set or "text"
    embeddings = text_embeddings.get(text_set)
    if embeddings is None or not len(embeddings):
        raise ItemError(f"list {wanted.name!r}: text set {text_set!r} has no embedding")
    total: npt.NDArray[np.float64] = np.sum(embeddings, axis=0, dtype=np.float64)
    return (total / len(embeddings)).astype(np.float32)


def _part(matrix: Matrix, searchable: int, selected: Rows | None) -> Matrix:
    """The ranked rows. A selection is gathered; without one the gallery is multiplied in place."""
    searched = matrix[:searchable]
    return np.asarray(searched if selected is None else searched[selected])


def _similarities(ranked: Matrix, vectors: Mapping[str, Matrix]) -> _Similarities:
    products = _multiply(ranked, np.stack(list(vectors.values())))
    # A zero row scores exactly zero; only such rows are looked at again.
    suspects = np.flatnonzero(products[0] == 0.0)
    missing = suspects[~ranked[suspects].any(axis=1)]
    return _Similarities(dict(zip(vectors, products, strict=True)), missing)


def _multiply(matrix: Matrix, vectors: Matrix) -> Matrix:
    """vectors · matrixᵀ, float32 (vectors, rows), in products of one fixed shape.

    So a vector's scores do not depend on how many other vectors are multiplied with it.
    """
    products = np.empty((len(vectors), len(matrix)), np.float32)
    for start in range(0, len(vectors), _VECTORS):
        group = vectors[start : start + _VECTORS]
        padding = np.zeros((_VECTORS - len(group), vectors.shape[1]), np.float32)
        columns = np.ascontiguousarray(np.concatenate([group, padding]).T)
        for first in range(0, len(matrix), _BLOCK_ROWS):
            block = matrix[first : first + _BLOCK_ROWS]
            products[start : start + len(group), first : first + len(block)] = (block @ columns)[
                :, : len(group)
            ].T
    return products
