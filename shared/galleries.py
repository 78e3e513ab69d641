"""Galleries on the shared volume: which images there are, where they lie and what they hold."""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import NamedTuple

import msgspec

from shared import atomic_files
from shared.errors import DatasetError, ItemError
from shared.image_files import FileStamp, ImageFacts, StatCache, inspect_image, stamp_of
from shared.json_lines import JsonLines

LISTING = "gallery.jsonl"
META = "meta.json"

_KEY = re.compile(r"[0-9a-f]{32}")
_CHUNK = 256


class GalleryRow(msgspec.Struct, frozen=True, omit_defaults=True):
    """One line of the listing: an image, or why it is none (`failure`)."""

    image_id: str
    path: str
    sha256: str = ""
    width: int = 0
    height: int = 0
    failure: str = ""


class GalleryMeta(msgspec.Struct, frozen=True):
    """meta.json. `failures` maps rows (as decimal strings, JSON's keys) to reasons."""

    key: str
    rows: int
    searchable: int
    failures: dict[str, str]


class ImageFile(NamedTuple):
    """Where one image lies and the hash its content had when the gallery was written."""

    path: Path
    sha256: str


@dataclass(frozen=True)
class Gallery:
    """An open gallery; rows are read from the listing when asked for.

    Attributes:
        key: hash of ids and contents; the name of the gallery everywhere.
        folder: where its files are.
        searchable: rows 0..searchable-1 are searched, the rest are only reference images.
        failures: row -> reason, of images that are missing or broken. They keep their row.
    """

    key: str
    folder: Path
    searchable: int
    failures: Mapping[int, str]
    listing: JsonLines[GalleryRow]

    def __len__(self) -> int:
        return len(self.listing)

    def image_id(self, row: int) -> str:
        return self._row(row).image_id

    @cached_property
    def image_ids(self) -> tuple[str, ...]:
        """All ids by row; read whole at the first use."""
        return tuple(row.image_id for row in self.listing)

    @cached_property
    def _rows_by_id(self) -> dict[str, int]:
        return {image_id: row for row, image_id in enumerate(self.image_ids)}

    def row_of(self, image_id: str) -> int:
        """Raises: DatasetError: no such image in this gallery."""
        try:
            return self._rows_by_id[image_id]
        except KeyError:
            raise DatasetError(f"gallery {self.key} has no image {image_id!r}") from None

    def image_file(self, row: int) -> ImageFile:
        """Raises: ItemError: no such row, or its image is missing or broken."""
        entry = self._row(row)
        if entry.failure:
            raise ItemError(f"image {entry.image_id} ({entry.path}): {entry.failure}")
        return ImageFile(Path(entry.path), entry.sha256)

    def _row(self, row: int) -> GalleryRow:
        if not 0 <= row < len(self.listing):
            raise ItemError(f"gallery {self.key} has {len(self)} rows, row {row} is none of them")
        return self.listing[row]


def open_gallery(galleries_folder: Path, key: str) -> Gallery:
    """Open a gallery by its key.

    Raises: DatasetError: no such gallery, or its files are damaged.
    """
    if not _KEY.fullmatch(key):
        raise DatasetError(f"{key!r} is no gallery key: 32 hexadecimal digits")
    folder = galleries_folder / key
    try:
        meta = msgspec.json.decode((folder / META).read_bytes(), type=GalleryMeta)
    except FileNotFoundError:
        raise DatasetError(f"no gallery {key} in {galleries_folder}; index its images") from None
    except (OSError, msgspec.DecodeError) as error:
        raise DatasetError(f"{folder / META}: {error}") from error
    listing = JsonLines(folder / LISTING, GalleryRow)
    if len(listing) != meta.rows:
        raise DatasetError(f"{folder / LISTING} has {len(listing)} lines, not {meta.rows}")
    failures = {int(row): reason for row, reason in meta.failures.items()}
    return Gallery(key, folder, meta.searchable, failures, listing)


def write_gallery(
    galleries_folder: Path,
    images: Iterable[tuple[str, Path]],
    searchable: int | None = None,
    progress: Callable[[int, int], None] | None = None,
    threads: int | None = None,
) -> Gallery:
    """Read, hash and check every image, and write the listing under its content's key.

    A missing or broken image keeps its row and is named in `failures`; the rest goes on. Files read
    before and not changed since are not read again. The key depends on ids, contents and
    `searchable`, not on where the files lie: the same images elsewhere get the same key, and the
    listing then points to where they were seen last.

    Args:
        images: (image id, path), searchable ones first.
        searchable: how many are searched; default all.
        progress: called with (images done, images in all) now and then.
        threads: images read at the same time; default one per core, at most 8.
    Raises: DatasetError: no images, an id twice, or `searchable` out of range.
    """
    listed = [(image_id, os.path.abspath(path)) for image_id, path in images]  # noqa: PTH100
    searchable = len(listed) if searchable is None else searchable
    _check_listing(listed, searchable)
    galleries_folder.mkdir(parents=True, exist_ok=True)
    rows: list[GalleryRow] = []
    threads = threads or min(8, os.cpu_count() or 1)
    with (
        StatCache(galleries_folder / "stat_cache.sqlite") as cache,
        ThreadPoolExecutor(threads, "read-images") as pool,
    ):
        for first in range(0, len(listed), _CHUNK):
            rows += _read_images(listed[first : first + _CHUNK], cache, pool)
            if progress is not None:
                progress(len(rows), len(listed))
    key = _gallery_key(rows, searchable)
    _write_files(galleries_folder / key, key, rows, searchable)
    return open_gallery(galleries_folder, key)


def _check_listing(listed: list[tuple[str, str]], searchable: int) -> None:
    if not listed:
        raise DatasetError("a gallery needs at least one image")
    if not 0 < searchable <= len(listed):
        raise DatasetError(f"{searchable} of {len(listed)} images searchable: use 1..{len(listed)}")
    seen: set[str] = set()
    for image_id, path in listed:
        if not image_id or image_id in seen:
            problem = f"two images have the id {image_id!r}" if image_id else "an image has no id"
            raise DatasetError(f"{problem} (the second is {path!r})" if image_id else problem)
        if not _is_text(image_id):
            raise DatasetError(f"image id {image_id!r} is not valid Unicode; rename the file")
        seen.add(image_id)


def _read_images(
    listed: list[tuple[str, str]], cache: StatCache, pool: ThreadPoolExecutor
) -> list[GalleryRow]:
    """One row per image, in order; only what the cache does not know is read."""
    found: list[ImageFacts | FileStamp | ItemError] = [_look_up(path, cache) for _, path in listed]
    unread = [
        (position, listed[position][1], stamp)
        for position, stamp in enumerate(found)
        if isinstance(stamp, FileStamp)
    ]
    fresh = []
    for (position, path, stamp), read in zip(
        unread, pool.map(lambda entry: _inspect(entry[1]), unread), strict=True
    ):
        found[position] = read
        if isinstance(read, ImageFacts):
            fresh.append((path, stamp, read))
    cache.remember(fresh)
    return [
        GalleryRow(image_id, path, *outcome)
        if isinstance(outcome, ImageFacts)
        else GalleryRow(
            image_id, path if _is_text(path) else ascii(path), failure=f"{outcome}".strip()
        )
        for (image_id, path), outcome in zip(listed, found, strict=True)
    ]


def _look_up(path: str, cache: StatCache) -> ImageFacts | FileStamp | ItemError:
    if not _is_text(path):
        return ItemError("the file's path is not valid Unicode; rename it")
    try:
        stamp = stamp_of(path)
    except ItemError as error:
        return error
    return cache.find(path, stamp) or stamp


def _inspect(path: str) -> ImageFacts | ItemError:
    try:
        return inspect_image(path)
    except ItemError as error:
        return error


def _is_text(name: str) -> bool:
    try:
        name.encode("utf-8")
    except UnicodeEncodeError:
        return False
    return True


def _gallery_key(rows: list[GalleryRow], searchable: int) -> str:
    digest = hashlib.sha256(f"gallery 1 {searchable}\n".encode())
    for row in rows:
        # The reason of a failure is left out: it may name a place, and the key must not.
        digest.update(json.dumps([row.image_id, row.sha256 or "failed"]).encode() + b"\n")
    return digest.hexdigest()[:32]


def _write_files(folder: Path, key: str, rows: list[GalleryRow], searchable: int) -> None:
    listing = b"".join(msgspec.json.encode(row) + b"\n" for row in rows)
    failures = {str(row): entry.failure for row, entry in enumerate(rows) if entry.failure}
    meta = msgspec.to_builtins(GalleryMeta(key, len(rows), searchable, failures))
    folder.mkdir(parents=True, exist_ok=True)
    if not _holds(folder / LISTING, listing):
        atomic_files.write_bytes(folder / LISTING, listing)
        atomic_files.write_json(folder / META, meta)  # last: the gallery is there when meta.json is
    elif not (folder / META).exists():
        atomic_files.write_json(folder / META, meta)


def _holds(path: Path, content: bytes) -> bool:
    try:
        return path.read_bytes() == content
    except FileNotFoundError:
        return False
