"""Reads image files that may be anything: bounded, never blocking, and what they hold remembered.

Every image goes through here: its file is read once, with a limit on its bytes; its header is read
by one of a few decoders only, and its pixels are counted before one of them is decoded.
"""

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

from PIL import Image, ImageOps

from shared.errors import ItemError

MAX_BYTES = 64 * 1024 * 1024
"""Larger files are refused: a gallery image is a photograph, not an archive."""
FORMATS = ("JPEG", "PNG", "WEBP", "BMP", "GIF", "TIFF")
"""Pillow's names of what is read. Its other decoders are old, rarely used, or start programs."""
DEFAULT_MAX_PIXELS = 100_000_000
"""300 MB when decoded."""

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


def limit_pixels(max_pixels: int) -> None:
    """Refuse larger images in this process; called once at its start, with `Settings.max_pixels`.

    It is Pillow's own limit that is set, so that no other reader in the process goes beyond it
    by more than Pillow tolerates (twice).
    """
    Image.MAX_IMAGE_PIXELS = max_pixels


limit_pixels(DEFAULT_MAX_PIXELS)


def stamp_of(path: str) -> FileStamp:
    """Raises: ItemError: there is no regular file at `path`, or it is too large."""
    try:
        status = os.stat(path)  # noqa: PTH116 - Path objects double the time of 120,000 of these
    except FileNotFoundError as error:
        raise ItemError("file not found") from error
    except (OSError, ValueError) as error:
        raise ItemError(f"file cannot be read: {error}") from error
    return _checked_stamp(status)


def read_content(path: str | Path) -> bytes:
    """The file's bytes; never waits, whatever lies at `path`.

    Raises: ItemError: missing, unreadable, empty, too large, or no regular file.
    """
    try:
        # A pipe without a writer, or a device, would be waited for.
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except FileNotFoundError as error:
        raise ItemError("file not found") from error
    except (OSError, ValueError) as error:
        raise ItemError(f"file cannot be read: {error}") from error
    try:
        size = _checked_stamp(os.fstat(descriptor)).size
        with open(descriptor, "rb", closefd=False) as file:
            content = file.read(size + 1)
    except OSError as error:
        raise ItemError(f"file cannot be read: {error.strerror}") from error
    finally:
        os.close(descriptor)
    if not content:
        raise ItemError("the file is empty")
    if len(content) != size:
        raise ItemError("the file is being written; read it again when it is whole")
    return content


def open_image(content: bytes) -> Image.Image:
    """The image whose file holds `content`, not decoded yet: its size and mode are known.

    Raises: ItemError: of no format in `FORMATS`, damaged at its beginning, or of too many pixels.
    """
    try:
        image = Image.open(io.BytesIO(content), formats=FORMATS)
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise ItemError(f"at most {_max_pixels()} pixels are read: {error}") from error
    except Exception as error:  # decoders raise OSError, SyntaxError, ValueError, struct.error, ...
        raise _undecodable(error) from error
    check_pixels(*image.size)
    return image


def check_pixels(width: int, height: int) -> None:
    """Raises: ItemError: more pixels than this process reads."""
    if width * height > _max_pixels():
        raise ItemError(f"image of {width}x{height}; at most {_max_pixels()} pixels are read")


def decode_image(content: bytes) -> Image.Image:
    """All pixels of the (first) image, as RGB, the right side up.

    16-bit greys keep their range; of transparent pixels the colour is taken that is stored.

    Raises: ItemError: as `open_image`; damaged, cut off, or of pixels whose range is not known.
    """
    with open_image(content) as image:
        try:
            image.load()
            upright = _upright(image)
            return _eight_bits(upright).convert("RGB")
        except ItemError:
            raise
        except Exception as error:
            raise _undecodable(error) from error


def inspect_image(path: str) -> ImageFacts:
    """Read, hash and decode one image.

    Raises: ItemError: unreadable, not an image, damaged, cut off or too large.
    """
    content = read_content(path)
    with open_image(content) as image:
        width, height = image.size
        try:
            # A JPEG decoded at an eighth of its size is still read to the last byte, but sooner.
            image.draft("RGB", (max(1, width // 8), max(1, height // 8)))
            image.load()
            _check_range(image.mode)
        except ItemError:
            raise
        except Exception as error:
            raise _undecodable(error) from error
    return ImageFacts(hashlib.sha256(content).hexdigest(), width, height)


def _max_pixels() -> int:
    return Image.MAX_IMAGE_PIXELS or DEFAULT_MAX_PIXELS


def _checked_stamp(status: os.stat_result) -> FileStamp:
    if not stat.S_ISREG(status.st_mode):
        raise ItemError("not a regular file")
    if status.st_size > MAX_BYTES:
        raise ItemError(f"file of {status.st_size} bytes; at most {MAX_BYTES} are read")
    return FileStamp(status.st_size, status.st_mtime_ns, status.st_ctime_ns)


def _undecodable(error: Exception) -> ItemError:
    return ItemError(f"image cannot be decoded: {type(error).__name__}: {error}")


def _upright(image: Image.Image) -> Image.Image:
    """Turned as its camera says; an image whose EXIF data are damaged stays as it is stored."""
    try:
        return ImageOps.exif_transpose(image)
    except Exception as error:
        _log.debug("EXIF data left aside: %s: %s", type(error).__name__, error)
        return image


def _check_range(mode: str) -> None:
    """Raises: ItemError: of these pixels nobody knows what black and white are."""
    if mode in ("I", "F"):
        raise ItemError(f"image of 32-bit pixels (mode {mode}); save it with 8 or 16 bits")


def _eight_bits(image: Image.Image) -> Image.Image:
    """Pillow cuts 16-bit greys off at 255, which makes nearly all of them white: scale instead."""
    _check_range(image.mode)
    if image.mode == "P" and isinstance(image.info.get("transparency"), bytes):
        return image.convert("RGBA")  # Pillow warns of the direct way
    if not image.mode.startswith("I;16"):
        return image
    return image.convert("I").point(lambda value: value * (1 / 257)).convert("L")


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
