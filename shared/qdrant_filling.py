"""Fills the Qdrant collection of an image database: in batches, taken up again where it stopped.

Every point's id is its row, so that a batch sent twice changes nothing. How far it is stands in
index.json, which says "filling" until whoever asked has measured the complete collection's recall.
"""

from __future__ import annotations

import contextlib
import fcntl
import time
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

import msgspec
import numpy as np

from shared.errors import ConfigurationError, TransientError
from shared.image_database import KEY_PATTERN, ImageDatabase
from shared.index_choice import IndexChoice, QdrantOptions, read_choice, write_choice
from shared.qdrant_index import VectorName, qdrant_troubles

if TYPE_CHECKING:
    from qdrant_client import QdrantClient

_BATCH_ROWS = 512
_ROWS_PER_NOTE = 16 * _BATCH_ROWS
_ATTEMPTS = 6
_POLL_S = 1.0
_LOCK = ".index.lock"
_PREFIX = "xr-"


def collection_name(key: str) -> str:
    return f"{_PREFIX}{key}"


def fill_collection(
    client: QdrantClient,
    database: ImageDatabase,
    options: QdrantOptions,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> IndexChoice:
    """Bring the database's collection to completeness, from wherever it is.

    Ranking stays exact until the choice that is returned is written (`write_choice`). A collection
    of another layout, or with fewer points than were noted, is made anew.

    Args:
        progress: called with (rows done, rows in all).
    Returns: the choice, "ready".
    Raises:
        TransientError: Qdrant could not be reached again and again, or its points are not those
            that were sent. ConfigurationError: another process is filling it, or Qdrant refuses.
    """
    with _alone(database):
        before = read_choice(database.folder)
        name = collection_name(database.key)
        filled = _reusable_rows(client, database, before, name, options)
        choice = IndexChoice(
            kind="qdrant", state="filling", qdrant=options, collection=name, filled_rows=filled
        )
        write_choice(database.folder, choice)
        if not filled:
            _retried(lambda: _create(client, name, database.manifest.dimensions, options))
        noted = filled
        for first in range(filled, database.searchable, _BATCH_ROWS):
            last = min(first + _BATCH_ROWS, database.searchable)
            for batch in _batches(database, first, last):
                _retried(lambda batch=batch: client.upsert(name, batch, wait=True))  # type: ignore[misc]
            progress(last, database.searchable)
            if last - noted >= _ROWS_PER_NOTE:
                choice = msgspec.structs.replace(choice, filled_rows=last)
                write_choice(database.folder, choice)
                noted = last
        _wait_until_indexed(client, name)
        expected = _points_below(database, database.searchable)
        points = _retried(lambda: client.count(name, exact=True).count)
        if points != expected:
            write_choice(database.folder, msgspec.structs.replace(choice, filled_rows=0))
            raise TransientError(
                f"Qdrant's collection {name} has {points} points, not the {expected} that were"
                " sent: it will be filled anew the next time"
            )
        choice = msgspec.structs.replace(choice, filled_rows=database.searchable, points=points)
        write_choice(database.folder, choice)
        return msgspec.structs.replace(choice, state="ready")


def drop_collection(client: QdrantClient, name: str) -> None:
    """Remove a collection, if it is there."""
    _retried(lambda: client.delete_collection(name))


def collection_names(client: QdrantClient) -> list[str]:
    """Collections that are named as ours are, whoever has filled them."""
    described = _retried(client.get_collections).collections
    names = (one.name for one in described)
    return sorted(name for name in names if KEY_PATTERN.fullmatch(name.removeprefix(_PREFIX)))


@contextlib.contextmanager
def _alone(database: ImageDatabase) -> Iterator[None]:
    with (database.folder / _LOCK).open("ab") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            raise ConfigurationError(
                f"another process is filling the index of image database {database.key}"
            ) from None
        yield


def _reusable_rows(
    client: QdrantClient,
    database: ImageDatabase,
    before: IndexChoice,
    name: str,
    options: QdrantOptions,
) -> int:
    """How many rows of the collection that is there can stay."""
    if before.kind != "qdrant" or before.qdrant.layout != options.layout or not before.filled_rows:
        return 0
    if not _retried(lambda: client.collection_exists(name)):
        return 0
    there = _retried(lambda: client.count(name, exact=True).count)
    return before.filled_rows if there >= _points_below(database, before.filled_rows) else 0


def _create(client: QdrantClient, name: str, dimensions: int, options: QdrantOptions) -> None:
    from qdrant_client import models

    quantization: Any = None
    if options.quantization == "scalar":
        scalar = models.ScalarQuantizationConfig(type=models.ScalarType.INT8, always_ram=True)
        quantization = models.ScalarQuantization(scalar=scalar)
    elif options.quantization == "binary":
        binary = models.BinaryQuantizationConfig(always_ram=True)
        quantization = models.BinaryQuantization(binary=binary)
    sizes: dict[VectorName, int] = {
        "image": dimensions,
        "caption": dimensions,
        "both": 2 * dimensions,
    }
    client.delete_collection(name)
    client.create_collection(
        name,
        vectors_config={
            vector: models.VectorParams(
                size=size,
                distance=models.Distance.DOT,
                datatype=models.Datatype.FLOAT16,
                on_disk=options.on_disk,
            )
            for vector, size in sizes.items()
        },
        hnsw_config=models.HnswConfigDiff(m=options.m, ef_construct=options.ef_construct),
        quantization_config=quantization,
        shard_number=options.shard_number,
        replication_factor=options.replication_factor,
    )


def _batches(database: ImageDatabase, first: int, last: int) -> Iterator[Any]:
    """The points of some rows; those that lack the same embeddings go together."""
    from qdrant_client import models

    images = np.array(database.image_embeddings[first:last], np.float32)
    captions = np.array(database.caption_embeddings[first:last], np.float32)
    has_image, has_caption = images.any(axis=1), captions.any(axis=1)
    for image in (True, False):
        for caption in (True, False):
            some = np.flatnonzero((has_image == image) & (has_caption == caption))
            if not len(some) or not (image or caption):
                continue
            vectors: dict[str, Any] = {}
            if image:
                vectors["image"] = images[some].tolist()
            if caption:
                vectors["caption"] = captions[some].tolist()
            if image and caption:
                vectors["both"] = np.concatenate([images[some], captions[some]], axis=1).tolist()
            yield models.Batch(ids=[int(row) for row in some + first], vectors=vectors)


def _points_below(database: ImageDatabase, rows: int) -> int:
    """Rows below `rows` that have an embedding."""
    points = 0
    for first in range(0, rows, _ROWS_PER_NOTE):
        some = slice(first, min(first + _ROWS_PER_NOTE, rows))
        has_any = database.image_embeddings[some].any(axis=1)
        points += int((has_any | database.caption_embeddings[some].any(axis=1)).sum())
    return points


def _wait_until_indexed(client: QdrantClient, name: str) -> None:
    """Until Qdrant has built its graphs: before that it goes through all vectors."""
    from qdrant_client import models

    while True:
        status = _retried(lambda: client.get_collection(name).status)
        if status == models.CollectionStatus.GREEN:
            return
        if status == models.CollectionStatus.RED:
            raise TransientError(f"Qdrant says that collection {name} is damaged (status red)")
        time.sleep(_POLL_S)


def _retried(call: Callable[[], Any]) -> Any:
    """Raises: TransientError: after some attempts, with pauses between."""
    for attempt in range(1, _ATTEMPTS + 1):
        try:
            with qdrant_troubles():
                return call()
        except TransientError:
            if attempt == _ATTEMPTS:
                raise
            time.sleep(0.1 * 2**attempt)
    raise AssertionError("unreachable")
