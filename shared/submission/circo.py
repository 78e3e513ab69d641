"""CIRCO's server: its file's form, and what it refuses.

{"<query id>": [50 image ids, best first], ...}: whole numbers, each once, and all queries there.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import Any, Literal

from shared.errors import PermanentError

Metric = Literal["map"]
LENGTH = 50


def content_of(rankings: Mapping[str, Sequence[str]]) -> dict[str, list[int]]:
    """The file's content from rankings of exactly the right length, by query id.

    Raises: PermanentError: an image id that is no number.
    """
    try:
        return {
            query_id: [int(image_id) for image_id in ranking]
            for query_id, ranking in rankings.items()
        }
    except ValueError as error:
        raise PermanentError(f"CIRCO's image ids are numbers: {error}") from error


def problems(content: Mapping[str, Any], gallery: Collection[str]) -> Iterator[str]:
    """What the server would refuse of the queries that are there."""
    images = frozenset(map(int, gallery))
    wanted = min(LENGTH, len(images) or LENGTH)
    for query_id, ids in content.items():
        if not (query_id.isascii() and query_id.isdigit()):
            yield f"{query_id!r} is no query id"
            continue
        for problem in _of_ids(ids, wanted, images):
            yield f"query {query_id}: {problem}"


def _of_ids(ids: Any, wanted: int, gallery: frozenset[int]) -> Iterator[str]:
    if not isinstance(ids, list):
        yield "not a list of image ids"
        return
    strange = next((value for value in ids if type(value) is not int), None)
    if strange is not None:
        yield f"{strange!r} is no whole number (ids are written without quotes and zeros in front)"
        return
    if len(set(ids)) != len(ids):
        twice = next(value for place, value in enumerate(ids) if value in ids[:place])
        yield f"{twice} stands twice"
    unknown = [value for value in ids if value not in gallery] if gallery else []
    if unknown:
        yield f"{unknown[0]} is not in the gallery"
    if len(ids) != wanted:
        yield f"{len(ids)} ids instead of {wanted}"
