"""Galleries on the shared volume: which images there are, where they lie and what they hold."""

from __future__ import annotations

import contextlib
import filecmp
import hashlib
import itertools
import json
import os
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import NamedTuple

import msgspec

from shared import atomic_files
from shared.contracts.limits import MAX_IMAGE_ID_CHARACTERS, too_long
from shared.errors import MALFORMED, DatasetError, ItemError
from shared.id_index import IdIndex
from shared.image_files import (
    FileStamp,
    ImageFacts,
    StatCache,
    check_pixels,
    inspect_image,
    stamp_of,
)
from shared.json_lines import JsonLines

LISTING = "gallery.jsonl"
META = "meta.json"
STAT_CACHE = "stat_cache.sqlite"

_KEY = re.compile(r"[0-9a-f]{32}")
_CHUNK = 256


class GalleryRow(msgspec.Struct, frozen=True, omit_defaults=True):
    """One line of the listing: an image, or why it is none (`failure`).

    `size` (bytes) and `mtime_ns` are the file's when it was read: while they stay, so does it.
    """

    image_id: str
    path: str
    sha256: str = ""
    width: int = 0
    height: int = 0
    size: int = 0
    mtime_ns: int = 0
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

    @property
    def image_ids(self) -> tuple[str, ...]:
        """All ids by row; reads the whole listing."""
        return tuple(row.image_id for row in self.listing)

    @cached_property
    def _rows_by_id(self) -> IdIndex:
        return IdIndex((row.image_id for row in self.listing), len(self), self.image_id)

    def has(self, image_id: str) -> bool:
        return self._rows_by_id.find(image_id) is not None

    def row_of(self, image_id: str) -> int:
        """Raises: DatasetError: no such image in this gallery."""
        row = self._rows_by_id.find(image_id)
        if row is None:
            raise DatasetError(f"gallery {self.key} has no image {image_id!r}")
        return row

    def image_file(self, row: int) -> ImageFile:
        """Where the image lies. A file that has been touched since is read, to see if it changed.

        Raises: ItemError: no such row, or its image is missing, broken, or another one by now.
        """
        entry = self._row(row)
        if entry.failure:
            raise ItemError(f"image {entry.image_id} ({entry.path}): {entry.failure}")
        try:
            unchanged = is_unchanged(entry)
        except ItemError as error:
            raise ItemError(f"image {entry.image_id} ({entry.path}): {error}") from error
        if not unchanged:
            raise ItemError(
                f"image {entry.image_id} ({entry.path}) has changed since the gallery was written:"
                " start the run again"
            )
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
        failures = {int(row): reason for row, reason in meta.failures.items()}
    except FileNotFoundError:
        raise DatasetError(f"no gallery {key} in {galleries_folder}; index its images") from None
    except (OSError, ValueError, *MALFORMED) as error:
        raise DatasetError(f"{folder / META}: {error}") from error
    listing = JsonLines(folder / LISTING, GalleryRow)
    if len(listing) != meta.rows:
        raise DatasetError(f"{folder / LISTING} has {len(listing)} lines, not {meta.rows}")
    return Gallery(key, folder, meta.searchable, failures, listing)


def is_unchanged(entry: GalleryRow, *, read: bool = False) -> bool:
    """Whether the file still holds the image that is listed.

    Args:
        read: compare contents even if size and modification time are the same.
    Raises: ItemError: the file cannot be read.
    """
    stamp = stamp_of(entry.path)
    if not read and (stamp.size, stamp.mtime_ns) == (entry.size, entry.mtime_ns):
        return True
    try:
        with open(entry.path, "rb") as file:  # noqa: PTH123 - the path is a string already
            return hashlib.file_digest(file, "sha256").hexdigest() == entry.sha256
    except OSError as error:
        raise ItemError(f"file cannot be read: {error.strerror}") from error


def write_gallery(
    galleries_folder: Path,
    images: Sequence[tuple[str, Path]],
    searchable: int | None = None,
    progress: Callable[[int, int], None] | None = None,
    threads: int | None = None,
    read_again: bool = False,
) -> Gallery:
    """Read, hash and check every image, and write the listing under its content's key.

    A missing or broken image keeps its row and is named in `failures`; the rest goes on. Files read
    before and not changed since (same path, size, mtime, ctime) are not read again. The key depends
    on ids, contents and `searchable`, not on where the files lie: the same images elsewhere get the
    same key, and the listing then points to where they were seen last. What is held in memory is a
    few bytes per image.

    Args:
        images: (image id, path), searchable ones first; gone through twice.
        searchable: how many are searched; default all.
        progress: called with (images done, images in all) now and then.
        threads: images read at the same time; default one per core, at most 8.
        read_again: read every file, known or not.
    Raises: DatasetError: no images, an id twice, or `searchable` out of range.
    """
    searchable = len(images) if searchable is None else searchable
    _check_listing(images, searchable)
    rows = read_rows(galleries_folder, images, threads=threads, read_again=read_again)
    return write_listing(galleries_folder, rows, searchable, len(images), progress)


def read_rows(
    galleries_folder: Path,
    images: Sequence[tuple[str, Path]],
    *,
    threads: int | None = None,
    read_again: bool = False,
) -> Iterator[GalleryRow]:
    """Read, hash and check images; one row each, in order. See `write_gallery`."""
    galleries_folder.mkdir(parents=True, exist_ok=True)
    threads = threads or min(8, os.cpu_count() or 1)
    with (
        StatCache(galleries_folder / STAT_CACHE) as cache,
        ThreadPoolExecutor(threads, "read-images") as pool,
    ):
        for chunk in _chunks(images):
            yield from _read_images(chunk, cache, pool, read_again)


def write_listing(
    galleries_folder: Path,
    rows: Iterable[GalleryRow],
    searchable: int,
    expected: int,
    progress: Callable[[int, int], None] | None = None,
) -> Gallery:
    """Write rows, searchable ones first, under their content's key.

    Args:
        rows: gone through once; their ids differ.
        expected: how many they are, for the progress.
    """
    galleries_folder.mkdir(parents=True, exist_ok=True)
    key = GalleryKey(searchable)
    failures: dict[str, str] = {}
    done = 0
    with atomic_files.scratch_file(galleries_folder / LISTING) as listing:
        with listing.open("wb") as file:
            for entry in rows:
                key.add(entry)
                file.write(msgspec.json.encode(entry) + b"\n")
                if entry.failure:
                    failures[str(done)] = entry.failure
                done += 1
                if progress is not None and done % _CHUNK == 0:
                    progress(done, expected)
        meta = GalleryMeta(key.hexdigest(), done, searchable, failures)
        _place(galleries_folder / meta.key, meta, listing)
    if progress is not None:
        progress(done, expected)
    mark_used(galleries_folder / meta.key)
    return open_gallery(galleries_folder, meta.key)


class GalleryKey:
    """Makes the key of a gallery from its rows, added in order."""

    def __init__(self, searchable: int) -> None:
        self._digest = hashlib.sha256(f"gallery 1 {searchable}\n".encode())

    def add(self, entry: GalleryRow) -> None:
        # A failure's reason is left out: it may name a place, and the key must not.
        hashed = json.dumps([entry.image_id, entry.sha256 or "failed"])
        self._digest.update(hashed.encode() + b"\n")

    def hexdigest(self) -> str:
        return self._digest.hexdigest()[:32]


def mark_used(folder: Path) -> None:
    """Note in the folder's modification time that it is in use, which keeps it from clean-ups."""
    with contextlib.suppress(OSError):  # a volume mounted for reading only
        os.utime(folder)


def _check_listing(images: Sequence[tuple[str, Path]], searchable: int) -> None:
    if not len(images):
        raise DatasetError("a gallery needs at least one image")
    if not 0 < searchable <= len(images):
        raise DatasetError(f"{searchable} of {len(images)} images searchable: use 1..{len(images)}")
    ids = IdIndex(map(_checked_id, images), len(images), lambda row: images[row][0])
    if (row := ids.first_duplicate()) is not None:
        image_id, path = images[row]
        raise DatasetError(
            f"two images have the id {image_id!r} (the second is {os.fspath(path)!r})"
        )


def _checked_id(image: tuple[str, Path]) -> str:
    check_image_id(*image)
    return image[0]


def check_image_id(image_id: str, path: str | Path) -> None:
    """Raises: DatasetError: empty, too long or no Unicode; `path` says whose id it is."""
    if not image_id:
        raise DatasetError(f"an image has no id ({os.fspath(path)!r})")
    if not _is_text(image_id):
        raise DatasetError(f"image id {image_id!r} is not valid Unicode; rename the file")
    if problem := too_long("an image id", image_id, MAX_IMAGE_ID_CHARACTERS):
        raise DatasetError(f"{problem} ({image_id[:40]!r}...)")


def _chunks(images: Sequence[tuple[str, Path]]) -> Iterator[list[tuple[str, str]]]:
    """(image id, absolute path) of a few images at a time."""
    remaining = iter(images)
    while some := list(itertools.islice(remaining, _CHUNK)):
        yield [(image_id, os.path.abspath(path)) for image_id, path in some]  # noqa: PTH100


def _read_images(
    listed: list[tuple[str, str]], cache: StatCache, pool: ThreadPoolExecutor, read_again: bool
) -> list[GalleryRow]:
    """One row per image, in order; only what the cache does not know is read."""
    stamps = [_stamp(path) for _, path in listed]
    facts: list[ImageFacts | ItemError | None] = [
        stamp
        if isinstance(stamp, ItemError)
        else None
        if read_again
        else _known(path, stamp, cache)
        for (_, path), stamp in zip(listed, stamps, strict=True)
    ]
    unread = [position for position, found in enumerate(facts) if found is None]
    fresh = []
    inspected = pool.map(_inspect, [listed[position][1] for position in unread])
    for position, found in zip(unread, inspected, strict=True):
        facts[position] = found
        stamp = stamps[position]
        if isinstance(found, ImageFacts) and isinstance(stamp, FileStamp):
            fresh.append((listed[position][1], stamp, found))
    cache.remember(fresh)
    return [
        _row(image_id, path, stamp, found)
        for (image_id, path), stamp, found in zip(listed, stamps, facts, strict=True)
    ]


def _row(
    image_id: str,
    path: str,
    stamp: FileStamp | ItemError,
    facts: ImageFacts | ItemError | None,
) -> GalleryRow:
    if isinstance(stamp, FileStamp) and isinstance(facts, ImageFacts):
        return GalleryRow(image_id, path, *facts, stamp.size, stamp.mtime_ns)
    shown = path if _is_text(path) else ascii(path)
    return GalleryRow(image_id, shown, failure=f"{facts}".strip())


def _stamp(path: str) -> FileStamp | ItemError:
    if not _is_text(path):
        return ItemError("the file's path is not valid Unicode; rename it")
    try:
        return stamp_of(path)
    except ItemError as error:
        return error


def _known(path: str, stamp: FileStamp, cache: StatCache) -> ImageFacts | ItemError | None:
    """What is remembered of the file; the limit of pixels may be another one by now."""
    facts = cache.find(path, stamp)
    try:
        if facts is not None:
            check_pixels(facts.width, facts.height)
    except ItemError as error:
        return error
    return facts


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


def _place(folder: Path, meta: GalleryMeta, listing: Path) -> None:
    """Put the listing into the gallery's folder, unless the same one is there already."""
    folder.mkdir(parents=True, exist_ok=True)
    there = (folder / LISTING).exists() and (folder / META).exists()
    if there and filecmp.cmp(folder / LISTING, listing, shallow=False):
        return
    atomic_files.move_into_place(listing, folder / LISTING)
    # Last: the gallery is there when meta.json is.
    atomic_files.write_json(folder / META, msgspec.to_builtins(meta))
