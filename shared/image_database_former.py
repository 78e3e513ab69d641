"""What a new image database takes over from a former one, row by row, instead of asking again.

Two kinds of former databases: the version before of the same gallery, of which only what failed is
asked for again; and the database of another gallery that shares images with this one, such as the
gallery's version before an update. An image is the same when its content is.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from shared.errors import DatasetError
from shared.galleries import Gallery, GalleryRow, open_gallery
from shared.id_index import IdIndex
from shared.image_database import (
    GIVEN_CAPTIONS,
    FailedStep,
    ImageDatabase,
    finished_databases,
    made_by,
    open_image_database,
)

Rows = npt.NDArray[np.int32]

_ASKED = -1
_CAPTION_STEPS: tuple[FailedStep, ...] = ("caption", "caption_embedding")


@dataclass(frozen=True)
class Former:
    """A finished database and which of its rows are taken over.

    Attributes:
        captions: for each row of the new gallery the row of the former database whose caption, and
            its embedding, it gets; -1 = it is asked for.
        images: likewise, of the image embeddings.
        is_retry: the former database is of the same gallery, by the same models.
    """

    database: ImageDatabase
    captions: Rows
    images: Rows
    is_retry: bool


def version_before(database: ImageDatabase) -> Former | None:
    """All rows of readable images but those that failed; None when none of these failed.

    An image whose caption has no embedding is captioned again: it may be the caption's fault.
    """
    captions = np.arange(len(database), dtype=np.int32)
    images = captions.copy()
    for failure in database.failures:
        if failure.step in _CAPTION_STEPS:
            captions[failure.row] = _ASKED
        elif failure.step == "image_embedding":
            images[failure.row] = _ASKED
    if (captions >= 0).all() and (images >= 0).all():
        return None
    return Former(database, captions, images, is_retry=True)


def find_former(
    databases_folder: Path,
    gallery_key: str,
    captioner: Mapping[str, Any],
    clip: Mapping[str, Any],
) -> str:
    """The key of the database of another gallery that most can be taken over from; empty = none.

    It has the same CLIP. One by the same captioner is preferred, then the one asked again most
    often.
    """
    found = [
        (made_by(origin.captioner) == made_by(captioner), origin.retries, origin.key)
        for origin in finished_databases(databases_folder)
        if origin.gallery == gallery_key and dict(origin.clip) == dict(clip)
    ]
    return max(found)[2] if found else ""


def shared_images(
    databases_folder: Path,
    key: str,
    gallery: Gallery,
    captioner: Mapping[str, Any],
    given_captions: Mapping[str, str],
) -> Former:
    """The rows of a database whose images are in `gallery`, too.

    What failed for such an image has failed: asking again is a version of its own. A caption is
    taken over when the same captioner made it, or when it is the one that is given.

    Args:
        given_captions: by image id, those of the new gallery that are given.
    Raises: DatasetError: the database or its gallery is not there any more.
    """
    database = open_image_database(databases_folder, key)
    former = open_gallery(gallery.folder.parent, database.gallery_key)
    known = database.manifest.captioner
    same_captioner = made_by(known) == made_by(captioner)
    given_rows = _given_rows(database)
    captions = np.full(len(gallery), _ASKED, np.int32)
    images = captions.copy()
    sources = _same_images(former, gallery)
    for (row, source), entry in zip(enumerate(sources), gallery.listing, strict=True):
        if source < 0:
            continue
        images[row] = source
        given = given_captions.get(entry.image_id)
        if given is not None:
            same = database.captions[source] == given
        else:
            same = same_captioner and source not in given_rows
        if same:
            captions[row] = source
    return Former(database, captions, images, is_retry=False)


def _same_images(former: Gallery, gallery: Gallery) -> Iterator[int]:
    """For each row of `gallery` the row of `former` with the same content, -1 = none.

    Of several the one of the same id is taken. Most rows of an updated gallery follow each other
    in the former one, too: the indices of ids and contents are made when one does not.
    """
    indices: tuple[IdIndex, IdIndex] | None = None
    next_row = 0
    for entry in gallery.listing:
        if not entry.sha256:
            yield _ASKED
            continue
        found: int | None = next_row
        if next_row == len(former) or not _is_same(former.listing[next_row], entry):
            if indices is None:
                indices = _indices_of(former)
            by_id, by_content = indices
            found = by_id.find(entry.image_id)
            if found is None or former.listing[found].sha256 != entry.sha256:
                found = by_content.find(entry.sha256)
        if found is None:
            yield _ASKED
        else:
            yield found
            next_row = found + 1


def _is_same(one: GalleryRow, other: GalleryRow) -> bool:
    return (one.image_id, one.sha256) == (other.image_id, other.sha256)


def _indices_of(gallery: Gallery) -> tuple[IdIndex, IdIndex]:
    """Rows by image id, and by content."""
    listing, count = gallery.listing, len(gallery)
    return (
        IdIndex((entry.image_id for entry in listing), count, lambda r: listing[r].image_id),
        IdIndex((entry.sha256 for entry in listing), count, lambda r: listing[r].sha256),
    )


def open_former(
    databases_folder: Path,
    key: str,
    gallery: Gallery,
    captioner: Mapping[str, Any],
    given_captions: Mapping[str, str],
) -> Former | None:
    """`shared_images`, or None where the former database is gone: then all rows are asked for."""
    try:
        return shared_images(databases_folder, key, gallery, captioner, given_captions)
    except DatasetError:
        return None


def _given_rows(database: ImageDatabase) -> Collection[int]:
    """Rows whose caption no captioner made. Older databases do not say which: then it is all."""
    if GIVEN_CAPTIONS not in database.manifest.captioner:
        return ()
    given = {row for row in range(len(database)) if database.captions.is_given(row)}
    return given or range(len(database))
