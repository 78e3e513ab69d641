"""Checks a finished image database against its checksums, its rules and the images themselves."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np

from shared.errors import DatasetError, ItemError
from shared.galleries import Gallery, GalleryKey, is_unchanged, open_gallery
from shared.image_database import Embeddings, FailedStep, ImageDatabase, open_image_database

_BLOCK_ROWS = 4096
_EXPECTED_UNIT = 1e-3


class Finding(NamedTuple):
    """Something that is not as it should be: in which file or image, and what."""

    where: str
    problem: str


def check_image_database(
    databases_folder: Path,
    galleries_folder: Path,
    key: str,
    read_images: bool = False,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> Iterator[Finding]:
    """Everything that is wrong with a database; nothing when it is sound.

    Args:
        read_images: hash every image; else only those whose size or modification time changed.
        progress: called with (images done, images in all).
    """
    try:
        database = open_image_database(databases_folder, key)
    except DatasetError as error:
        yield Finding(key, str(error))
        return
    yield from _check_files(database)
    yield from _check_captions(database)
    yield from _check_matrix(database, "image_embedding", database.image_embeddings)
    yield from _check_matrix(database, "caption_embedding", database.caption_embeddings)
    try:
        gallery = open_gallery(galleries_folder, database.gallery_key)
    except DatasetError as error:
        yield Finding(f"gallery {database.gallery_key}", str(error))
        return
    yield from _check_gallery(database, gallery)
    yield from _check_images(gallery, read_images, progress)


def _check_files(database: ImageDatabase) -> Iterator[Finding]:
    for name, expected in database.manifest.files.items():
        with (database.folder / name).open("rb") as file:
            if hashlib.file_digest(file, "sha256").hexdigest() != expected:
                yield Finding(name, "its checksum is not the one in the manifest")


def _check_captions(database: ImageDatabase) -> Iterator[Finding]:
    """A caption is missing exactly where a failure says so."""
    failed = _failed_rows(database, "image", "caption")
    try:
        for row, caption in enumerate(database.captions):
            if (caption is None) != (row in failed):
                problem = "has a caption though it failed" if caption else "has no caption"
                yield Finding(f"captions.jsonl, row {row}", problem)
    except DatasetError as error:
        yield Finding("captions.jsonl", str(error))


def _check_matrix(
    database: ImageDatabase, step: FailedStep, matrix: Embeddings
) -> Iterator[Finding]:
    """Rows are unit vectors, but those that failed, which are zero."""
    steps: tuple[FailedStep, ...] = ("image", step)
    if step == "caption_embedding":
        steps = (*steps, "caption")
    failed = _failed_rows(database, *steps)
    for first in range(0, len(matrix), _BLOCK_ROWS):
        lengths = np.linalg.norm(matrix[first : first + _BLOCK_ROWS].astype(np.float32), axis=1)
        # The length of a row with a NaN in it is NaN, which is close to nothing.
        is_unit = np.abs(lengths - 1.0) <= _EXPECTED_UNIT
        suspects = {first + int(place) for place in np.flatnonzero(~is_unit)}
        suspects |= {row for row in failed if first <= row < first + len(lengths)}
        for row in sorted(suspects):
            where, length = f"{step}s.npy, row {row}", float(lengths[row - first])
            if row not in failed:
                yield Finding(where, f"is no unit vector: its length is {length}")
            elif length != 0.0:
                yield Finding(where, f"failed, but its length is {length}")


def _check_gallery(database: ImageDatabase, gallery: Gallery) -> Iterator[Finding]:
    where = f"gallery {gallery.key}"
    if (len(gallery), gallery.searchable) != (len(database), database.searchable):
        yield Finding(where, f"has {len(gallery)} images, not {len(database)}")
    key = GalleryKey(gallery.searchable)
    try:
        for entry in gallery.listing:
            key.add(entry)
    except DatasetError as error:
        yield Finding(where, str(error))
        return
    if key.hexdigest() != gallery.key:
        yield Finding(where, "its listing is not the one its key was made from")


def _check_images(
    gallery: Gallery, read_images: bool, progress: Callable[[int, int], None]
) -> Iterator[Finding]:
    for row, entry in enumerate(gallery.listing):
        if not entry.failure:
            where = f"image {entry.image_id} ({entry.path})"
            try:
                if not is_unchanged(entry, read=read_images):
                    yield Finding(where, "has changed since")
            except ItemError as error:
                yield Finding(where, str(error))
        if row % _BLOCK_ROWS == 0:
            progress(row, len(gallery))
    progress(len(gallery), len(gallery))


def _failed_rows(database: ImageDatabase, *steps: FailedStep) -> set[int]:
    return {failure.row for failure in database.failures if failure.step in steps}
