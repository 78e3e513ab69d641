"""The galleries and image databases an agent has open."""

from __future__ import annotations

import time
from pathlib import Path

from agents.backends.contract import ImageFile
from agents.caching import BoundedCache
from shared.contracts.skills import ItemFailure
from shared.errors import ItemError
from shared.galleries import LISTING, Gallery, mark_used, open_gallery
from shared.image_database import ImageDatabase, open_image_database

_KEPT_OPEN = 8
_MARK_INTERVAL_S = 3600.0


class Galleries:
    """Galleries by key, the last few kept open."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._open: BoundedCache[tuple[str, int], Gallery] = BoundedCache(_KEPT_OPEN)
        self._in_use = _InUse()

    def images(self, key: str, rows: tuple[int, ...]) -> list[ImageFile | ItemFailure]:
        """One entry per row: the image, or why there is none.

        Raises: DatasetError: no such gallery.
        """
        gallery = self._gallery(key)
        self._in_use.mark(gallery.folder)
        return [_image(gallery, row) for row in rows]

    def _gallery(self, key: str) -> Gallery:
        # A gallery's paths are rewritten when its images move; its key stays.
        try:
            changed_ns = (self._folder / key / LISTING).stat().st_mtime_ns
        except (OSError, ValueError):
            return open_gallery(self._folder, key)
        gallery = self._open.get((key, changed_ns))
        if gallery is None:
            gallery = open_gallery(self._folder, key)
            self._open.put((key, changed_ns), gallery)
        return gallery


class Databases:
    """Image databases by key, the last few kept open; a finished one never changes."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._open: BoundedCache[str, ImageDatabase] = BoundedCache(_KEPT_OPEN)
        self._in_use = _InUse()

    def database(self, key: str) -> ImageDatabase:
        """Raises: DatasetError: no such database, or it isn't finished."""
        database = self._open.get(key)
        if database is None:
            database = open_image_database(self._folder, key)
            self._open.put(key, database)
        self._in_use.mark(database.folder)
        return database

    def captions(self, key: str, rows: tuple[int, ...]) -> list[str | ItemFailure]:
        """One entry per row: the caption, or why there is none.

        Raises: DatasetError: no such database, or it isn't finished.
        """
        database = self.database(key)
        return [_caption(database, row) for row in rows]


class _InUse:
    """Marks folders as used, each once an hour, so that no clean-up takes them for forgotten."""

    def __init__(self) -> None:
        self._marked: BoundedCache[Path, float] = BoundedCache(_KEPT_OPEN)

    def mark(self, folder: Path) -> None:
        marked_s = self._marked.get(folder)
        if marked_s is None or time.monotonic() - marked_s > _MARK_INTERVAL_S:
            mark_used(folder)
            self._marked.put(folder, time.monotonic())


def _image(gallery: Gallery, row: int) -> ImageFile | ItemFailure:
    try:
        found = gallery.image_file(row)
    except ItemError as error:
        return ItemFailure(str(error))
    return ImageFile(found.path, found.sha256)


def _caption(database: ImageDatabase, row: int) -> str | ItemFailure:
    if not 0 <= row < len(database):
        return ItemFailure(f"image database {database.key} has {len(database)} rows, not row {row}")
    caption = database.captions[row]
    return ItemFailure(f"row {row} has no caption") if caption is None else caption
