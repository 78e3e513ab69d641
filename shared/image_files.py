"""What image files hold (content hash, size), remembered so that nothing is read twice."""

from __future__ import annotations

import hashlib
import io
import logging
import os
import sqlite3
import stat
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import NamedTuple

from PIL import Image

from shared.errors import ItemError

MAX_BYTES = 64 * 1024 * 1024
"""Larger files are refused: a gallery image is a photograph, not an archive."""
MAX_PIXELS = 100_000_000
"""Larger images are refused before they are decoded (300 MB of pixels)."""

_log = logging.getLogger(__name__)


class ImageFacts(NamedTuple):
    """Content hash (hex sha256 of the file's bytes) and size in pixels."""

    sha256: str
    width: int
    height: int


class FileStamp(NamedTuple):
    """What changes when a file changes. ctime catches copies that keep their old mtime."""

    size: int
    mtime_ns: int
    ctime_ns: int


def stamp_of(path: str) -> FileStamp:
    """Raises: ItemError: there is no regular file at `path`, or it is too large."""
    try:
        status = os.stat(path)  # noqa: PTH116 - Path objects double the time of 120,000 of these
    except FileNotFoundError as error:
        raise ItemError("file not found") from error
    except (OSError, ValueError) as error:
        raise ItemError(f"file cannot be read: {error}") from error
    if not stat.S_ISREG(status.st_mode):
        raise ItemError("not a regular file")
    if status.st_size > MAX_BYTES:
        raise ItemError(f"file of {status.st_size} bytes; at most {MAX_BYTES} are read")
    return FileStamp(status.st_size, status.st_mtime_ns, status.st_ctime_ns)


def inspect_image(path: str) -> ImageFacts:
    """Read, hash and decode one image.

    Raises: ItemError: unreadable, not an image, damaged, cut off or too large.
    """
    try:
        content = Path(path).read_bytes()
    except OSError as error:
        raise ItemError(f"file cannot be read: {error.strerror}") from error
    try:
        with Image.open(io.BytesIO(content)) as image:
            width, height = image.size
            if width * height > MAX_PIXELS:
                raise ItemError(f"image of {width}x{height} pixels; at most {MAX_PIXELS} are read")
            # A JPEG decoded at an eighth of its size is still read to the last byte, but sooner.
            image.draft("RGB", (max(1, width // 8), max(1, height // 8)))
            image.load()
    except ItemError:
        raise
    except Exception as error:  # decoders raise OSError, SyntaxError, ValueError, struct.error, ...
        raise ItemError(f"image cannot be decoded: {type(error).__name__}: {error}") from error
    return ImageFacts(hashlib.sha256(content).hexdigest(), width, height)


class StatCache:
    """Remembers the facts of files by path and stamp in one SQLite file.

    It only ever saves time: when the file cannot be used (a read-only or lock-less volume), every
    image is read again and a warning says so.
    """

    def __init__(self, path: Path) -> None:
        self._connection: sqlite3.Connection | None = None
        try:
            self._connection = sqlite3.connect(path, timeout=5.0)
            self._connection.execute(
                "CREATE TABLE IF NOT EXISTS files (path BLOB PRIMARY KEY, size INTEGER,"
                " mtime_ns INTEGER, ctime_ns INTEGER, sha256 TEXT, width INTEGER, height INTEGER)"
                " WITHOUT ROWID"
            )
        except sqlite3.Error as error:
            self._give_up(error)

    def __enter__(self) -> StatCache:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._connection is not None:
            self._connection.close()

    def find(self, path: str, stamp: FileStamp) -> ImageFacts | None:
        if self._connection is None:
            return None
        try:
            found = self._connection.execute(
                "SELECT size, mtime_ns, ctime_ns, sha256, width, height FROM files WHERE path = ?",
                (os.fsencode(path),),
            ).fetchone()
        except sqlite3.Error as error:
            self._give_up(error)
            return None
        return ImageFacts(*found[3:]) if found and found[:3] == stamp else None

    def remember(self, entries: Sequence[tuple[str, FileStamp, ImageFacts]]) -> None:
        if self._connection is None or not entries:
            return
        rows = [(os.fsencode(path), *stamp, *facts) for path, stamp, facts in entries]
        try:
            with self._connection:
                self._connection.executemany(
                    "INSERT OR REPLACE INTO files VALUES (?, ?, ?, ?, ?, ?, ?)", rows
                )
        except sqlite3.Error as error:
            self._give_up(error)

    def _give_up(self, error: sqlite3.Error) -> None:
        _log.warning("the stat cache cannot be used, images are read again: %s", error)
        if self._connection is not None:
            self._connection.close()
        self._connection = None
