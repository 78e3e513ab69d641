"""Recall of an index against the exact one, over queries drawn from the gallery's captions.

The embedding of a caption is what the embedding of a target caption is: a sentence about an image,
by the same CLIP. Each query is the mean of two captions' embeddings, as those of a text set are, so
that it is no row of the gallery. Without captions, images take their place.
"""

from __future__ import annotations

import datetime
import time
from collections.abc import Callable

import numpy as np

from shared.gallery_index import EmbeddedGallery, ExactIndex, GalleryIndex
from shared.index_choice import MeasuredRecall
from shared.ranking_layout import Matrix, Wanted
from shared.scored_keys import ScoredRows

_TEXT_WEIGHT = 0.15
_DRAWN_PER_QUERY = 4
WEIGHTS = {"visual": (1.0, 0.0), "textual": (0.0, 1.0), "hybrid": (1 - _TEXT_WEIGHT, _TEXT_WEIGHT)}


def measure_recall(
    index: GalleryIndex, gallery: EmbeddedGallery, queries: int = 64, k: int = 100, seed: int = 0
) -> MeasuredRecall:
    """Mean share of the exact `k` best rows that the index returns, by kind of list."""
    wanted = [
        Wanted(vector.tobytes(), *weights)
        for vector in _query_vectors(gallery, queries, seed)
        for weights in WEIGHTS.values()
    ]
    exact, exact_s = _timed(lambda: ExactIndex(gallery).rank(wanted, k))
    found, found_s = _timed(lambda: index.rank(wanted, k))
    shares = np.array(
        [
            np.isin(best.rows, ours.rows).mean() if len(best.rows) else 1.0
            for best, ours in zip(exact, found, strict=True)
        ]
    ).reshape(-1, len(WEIGHTS))
    means = shares.mean(axis=0).tolist() if len(shares) else [1.0] * len(WEIGHTS)
    return MeasuredRecall(
        k=k,
        queries=len(shares),
        **dict(zip(WEIGHTS, means, strict=True)),
        times_exact=found_s / max(exact_s, 1e-9),
        measured_at=datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
    )


def _query_vectors(gallery: EmbeddedGallery, queries: int, seed: int) -> Matrix:
    """(queries, dimensions), fewer where the gallery has too few rows with an embedding."""
    draw = np.random.default_rng(seed)
    drawn = draw.integers(0, max(gallery.searchable, 1), 2 * _DRAWN_PER_QUERY * queries)
    for matrix in (gallery.caption_embeddings, gallery.image_embeddings):
        rows = np.array(matrix[drawn[drawn < gallery.searchable]], np.float32)
        rows = rows[rows.any(axis=1)]
        if len(rows) >= 2 * queries:
            pairs = rows[: 2 * queries].reshape(queries, 2, -1)
            means: Matrix = pairs.mean(axis=1, dtype=np.float32)
            return means
    return np.empty((0, gallery.image_embeddings.shape[1]), np.float32)


def _timed(call: Callable[[], list[ScoredRows]]) -> tuple[list[ScoredRows], float]:
    began_s = time.perf_counter()
    outcome = call()
    return outcome, time.perf_counter() - began_s
