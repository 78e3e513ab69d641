"""Ranking by a Qdrant collection: it finds candidates, the image database scores them.

A point per searchable row, its id the row. Three named vectors: "image" (v_j), "caption" (u_j) and
"both" (v_j and u_j end to end, for rows that have both), so that a hybrid list of any λ is one
search, for ((1-λ)e, λe). The vectors that a row lacks are left out, and such rows are not found.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from shared.errors import ConfigurationError, DatasetError, PermanentError, TransientError
from shared.gallery_index import EmbeddedGallery, rank_candidates
from shared.index_choice import IndexChoice
from shared.ranking_layout import Rows, Wanted
from shared.scored_keys import ScoredRows
from shared.settings import Settings

if TYPE_CHECKING:
    from qdrant_client import QdrantClient

VectorName = Literal["image", "caption", "both"]

_TIMEOUT_S = 30
_SEARCHES_AT_ONCE = 64
_FEW_ROWS = 20_000
"""A subset of so many rows is ranked exactly; a larger one is a filter of the search."""
_TOO_MANY_REQUESTS, _SERVER_ERROR, _NOT_FOUND = 429, 500, 404


class MissingCollectionError(PermanentError):
    """Qdrant has no collection of the name that was asked for."""


class QdrantIndex:
    """A `GalleryIndex` of one image database."""

    def __init__(
        self, client: QdrantClient, choice: IndexChoice, gallery: EmbeddedGallery, key: str
    ) -> None:
        """
        Args:
            key: the image database's.
        Raises: TransientError: Qdrant cannot be reached. DatasetError: the collection is missing,
            or not what was filled.
        """
        self._client, self._gallery, self._key = client, gallery, key
        self._collection, self._options = choice.collection, choice.qdrant
        with self._named_troubles():
            points = client.count(self._collection, exact=True).count
        if points != choice.points:
            raise DatasetError(
                f"Qdrant's collection {self._collection} has {points} points, not {choice.points}:"
                f" fill it again with `xr index use {key} qdrant`"
            )

    def rank(self, wanted: Sequence[Wanted], depth: int) -> list[ScoredRows]:
        candidates: dict[Wanted, Rows] = {}
        searched: list[Wanted] = []
        for one in dict.fromkeys(wanted):
            if one.subset is not None and len(one.subset) <= _FEW_ROWS:
                candidates[one] = np.array(one.subset, np.int64)
            else:
                searched.append(one)
        for first in range(0, len(searched), _SEARCHES_AT_ONCE):
            some = searched[first : first + _SEARCHES_AT_ONCE]
            candidates.update(zip(some, self._search(some, depth), strict=True))
        best = rank_candidates(self._gallery, candidates, depth)
        return [best[one] for one in wanted]

    def _search(self, wanted: Sequence[Wanted], depth: int) -> list[Rows]:
        from qdrant_client import models

        options = self._options
        requests = []
        for one in wanted:
            limit = math.ceil(depth * options.oversampling) + len(one.excluded)
            requests.append(
                models.QueryRequest(
                    query=_vector(one).tolist(),
                    using=_using(one),
                    limit=min(limit, max(self._gallery.searchable, 1)),
                    filter=None
                    if one.subset is None
                    else models.Filter(must=[models.HasIdCondition(has_id=list(one.subset))]),
                    params=models.SearchParams(
                        hnsw_ef=options.hnsw_ef,
                        quantization=None
                        if options.quantization == "none"
                        else models.QuantizationSearchParams(
                            rescore=True, oversampling=options.oversampling
                        ),
                    ),
                    with_payload=False,
                    with_vector=False,
                )
            )
        with self._named_troubles():
            answers = self._client.query_batch_points(self._collection, requests)
        return [np.array([point.id for point in answer.points], np.int64) for answer in answers]

    @contextmanager
    def _named_troubles(self) -> Iterator[None]:
        try:
            with qdrant_troubles():
                yield
        except MissingCollectionError:
            raise DatasetError(
                f"image database {self._key} is ranked by Qdrant, which has no collection"
                f" {self._collection}: fill it with `xr index use {self._key} qdrant`, or rank"
                f" exactly after `xr index use {self._key} exact`"
            ) from None


def connect_qdrant(settings: Settings) -> QdrantClient:
    """A client of the server of XR_QDRANT_URL; does not ask it anything yet.

    Raises: ConfigurationError: no URL, no client library, or no readable key.
    """
    if not settings.qdrant_url:
        raise ConfigurationError(
            "XR_QDRANT_URL is not set: it says where Qdrant is, such as http://qdrant:6333"
        )
    try:
        from qdrant_client import QdrantClient
    except ImportError as error:
        raise ConfigurationError(
            f"Qdrant's client library is missing ({error}): install the extra `qdrant`"
        ) from error
    key = None
    if settings.qdrant_api_key_file:
        try:
            key = Path(settings.qdrant_api_key_file).read_text(encoding="utf-8").strip()
        except (OSError, UnicodeDecodeError) as error:
            raise ConfigurationError(
                f"XR_QDRANT_API_KEY_FILE: {settings.qdrant_api_key_file} cannot be read: {error}"
            ) from None
    return QdrantClient(
        url=settings.qdrant_url, api_key=key, timeout=_TIMEOUT_S, check_compatibility=False
    )


@contextmanager
def qdrant_troubles() -> Iterator[None]:
    """The client's errors as ours.

    Raises: TransientError: unreachable, too busy, or broken for now. MissingCollectionError.
        ConfigurationError: Qdrant refuses the request.
    """
    from qdrant_client.http.exceptions import ResponseHandlingException, UnexpectedResponse

    try:
        yield
    except ResponseHandlingException as error:
        raise TransientError(f"Qdrant cannot be reached: {error}") from error
    except UnexpectedResponse as error:
        status = error.status_code or 0
        if status == _NOT_FOUND:
            raise MissingCollectionError(str(error)) from error
        if status == _TOO_MANY_REQUESTS or status >= _SERVER_ERROR:
            raise TransientError(f"Qdrant answers {status}: {error}") from error
        raise ConfigurationError(f"Qdrant refuses: {error}") from error
    except ValueError as error:  # of the embedded mode
        if "not found" not in str(error):
            raise
        raise MissingCollectionError(str(error)) from error


def _using(one: Wanted) -> VectorName:
    if not one.caption_weight:
        return "image"
    return "both" if one.image_weight else "caption"


def _vector(one: Wanted) -> np.ndarray[Any, np.dtype[np.float32]]:
    vector = np.frombuffer(one.vector, "<f4")
    if not (one.image_weight and one.caption_weight):
        return vector
    return np.concatenate([one.image_weight * vector, one.caption_weight * vector])
