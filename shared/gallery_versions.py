"""The history of a named gallery: the changes asked for, and the versions made of them.

XR_HOME/named_galleries/<name>/changes/<number>.json    what is put, what is removed, in one order
XR_HOME/named_galleries/<name>/versions/<number>.json   which gallery that number is, once it is
XR_HOME/named_galleries/<name>/images/<sha256>.<suffix> images that were uploaded, by their content

Version 1 is what the gallery was created with; version n is version 1 with all changes up to n. So
no order of writers, builders or kills can lose a change: whoever claims a number is in every later
version. Files are written once and never changed. A version is there when its file is, which is
written when its gallery and image database are whole.
"""

from __future__ import annotations

import asyncio
import contextlib
import datetime
import fcntl
import hashlib
import json
import os
import re
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import TypeVar

import msgspec

from shared import atomic_files
from shared.errors import MALFORMED, DatasetError
from shared.metadata import Fields
from shared.named_galleries import NamedGallery

CHANGES, VERSIONS, IMAGES = "changes", "versions", "images"
KEPT_VERSIONS = 5
"""So many of the last versions stay, whether runs refer to them or not."""

_LOCK = "building.lock"
_LAST_RUN = "last_run"
_POLL_S = 0.1
_NUMBER = re.compile(r"(\d{8})\.json")


class PutImage(msgspec.Struct, frozen=True):
    """An image to be added, or to take the place of the one of this id."""

    image_id: str
    path: str


class GalleryChange(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One change: images removed, then images put, then fields replaced.

    Attributes:
        fields: image id -> all fields that the image has from now on.
        made_at: UTC, ISO 8601.
        made_by: the API key; empty = none.
        request: what tells a repeated request; empty = nothing does.
    """

    put: tuple[PutImage, ...] = ()
    removed: tuple[str, ...] = ()
    fields: dict[str, Fields] = {}
    made_at: str = ""
    made_by: str = ""
    request: str = ""


class GalleryVersion(msgspec.Struct, frozen=True, kw_only=True):
    """One version.

    Attributes:
        number: of the last change in it.
        since: of the first change in it: several changes may become one version.
        gallery, database: their keys; the database is the one it was made with.
        images: how many it has.
        put, removed: images that came or were replaced, and images that went.
        run_id: the run that made it.
        made_at: UTC, ISO 8601.
    """

    number: int
    since: int
    gallery: str
    database: str
    images: int = 0
    put: int = 0
    removed: int = 0
    run_id: str = ""
    made_at: str = ""


Record = TypeVar("Record", GalleryChange, GalleryVersion)


class GalleryHistory:
    """The changes and versions of one gallery; any number of processes read and write them."""

    def __init__(self, home: Path, named: NamedGallery) -> None:
        """`home` is XR_HOME."""
        self.named = named
        self.folder = home / "named_galleries" / named.name
        self._runs_folder = home / "runs"

    # --- versions ---------------------------------------------------------------------------------

    def current(self) -> GalleryVersion | None:
        """The version that is searched; None before the first one is there."""
        for number in reversed(_numbers(self.folder / VERSIONS)):
            found = self._read(VERSIONS, number, GalleryVersion)
            if found is not None:
                return found
        return self._first()

    def version(self, number: int) -> GalleryVersion:
        """Raises: DatasetError: there is no such version, and which there are."""
        found = self._first() if number == 1 else self._read(VERSIONS, number, GalleryVersion)
        if found is None:
            known = ", ".join(str(version.number) for version in self.versions()[:10])
            raise DatasetError(
                f"gallery {self.named.name} has no version {number}; the last ones:"
                f" {known or 'none, it is not indexed yet'}"
            )
        return found

    def versions(self) -> list[GalleryVersion]:
        """All of them, the current one first."""
        numbers = reversed(_numbers(self.folder / VERSIONS))
        found = [self._read(VERSIONS, number, GalleryVersion) for number in numbers]
        return [version for version in (*found, self._first()) if version is not None]

    def publish(self, version: GalleryVersion) -> None:
        """Make a version the current one, unless a later one is.

        Its gallery and its image database are whole by now.

        Raises: DatasetError: the gallery has been deleted meanwhile.
        """
        try:
            self._write(VERSIONS, version.number, version)
        except FileNotFoundError as error:
            raise DatasetError(f"gallery {self.named.name} has been deleted") from error

    def _first(self) -> GalleryVersion | None:
        """What the run that indexed the gallery has written down."""
        folder, _, run = self.named.run_id.partition("~")
        try:
            manifest = json.loads((self._runs_folder / folder / run / "manifest.json").read_bytes())
            return GalleryVersion(
                number=1,
                since=1,
                gallery=str(manifest["gallery"]["key"]),
                database=str(manifest["database"]["key"]),
                images=int(manifest["gallery"]["images"]),
                put=int(manifest["gallery"]["images"]),
                run_id=self.named.run_id,
            )
        except (OSError, ValueError, KeyError, TypeError):
            return None

    # --- changes ----------------------------------------------------------------------------------

    def record(self, change: GalleryChange) -> int:
        """Put a change behind all others; returns its number. It is on the disk by then.

        A change with the `request` of an earlier one is that one.
        """
        for name in (CHANGES, VERSIONS):
            (self.folder / name).mkdir(parents=True, exist_ok=True)
        while True:
            numbers = _numbers(self.folder / CHANGES)
            if known := self.repeated(change.request):
                return known
            number = max(numbers, default=1) + 1
            if self._write(CHANGES, number, change):
                return number

    def last_change(self) -> int:
        """The number of the last change; 1 where there is none."""
        return max(_numbers(self.folder / CHANGES), default=1)

    def changes(self, after: int, through: int) -> Iterator[GalleryChange]:
        """Those numbered after + 1 .. through, in order.

        Raises: DatasetError: one of them is damaged: nothing may be left out.
        """
        for number in range(after + 1, through + 1):
            found = self._read(CHANGES, number, GalleryChange)
            if found is None:
                raise DatasetError(f"{self._path(CHANGES, number)} is missing or damaged")
            yield found

    def repeated(self, request: str) -> int:
        """The number of the change that this request made; 0 = none."""
        for number in reversed(_numbers(self.folder / CHANGES)) if request else ():
            change = self._read(CHANGES, number, GalleryChange)
            if change is not None and change.request == request:
                return number
        return 0

    def last_run(self) -> str:
        """The run that was queued last to make a version; empty = none."""
        try:
            return (self.folder / _LAST_RUN).read_text()
        except (OSError, UnicodeError):
            return ""

    def keep_last_run(self, run_id: str) -> None:
        atomic_files.write_bytes(self.folder / _LAST_RUN, run_id.encode())

    # --- images -----------------------------------------------------------------------------------

    def keep_image(self, content: bytes, suffix: str) -> Path:
        """Keep an image by its content: a file that is there is never written again."""
        path = self.folder / IMAGES / f"{hashlib.sha256(content).hexdigest()}{suffix}"
        path.parent.mkdir(parents=True, exist_ok=True)
        if not atomic_files.write_bytes(path, content, keep_existing=True):
            os.utime(path)  # it is about to be listed: no clean-up takes it for forgotten
        return path

    # --- one builder at a time --------------------------------------------------------------------

    @contextlib.asynccontextmanager
    async def alone(self) -> AsyncIterator[None]:
        """While the block runs nobody else builds a version of this gallery.

        The lock goes with the process that holds it. Where the volume has no locks, two builders
        do some work twice and publish the same.
        """
        self.folder.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(self.folder / _LOCK, os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, 0o644)
        try:
            while True:
                try:
                    fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    break
                except BlockingIOError:
                    await asyncio.sleep(_POLL_S)
                except OSError:
                    break
            yield
        finally:
            os.close(descriptor)

    # --- files ------------------------------------------------------------------------------------

    def _path(self, kind: str, number: int) -> Path:
        return self.folder / kind / f"{number:08d}.json"

    def _read(self, kind: str, number: int, of: type[Record]) -> Record | None:
        try:
            return msgspec.json.decode(self._path(kind, number).read_bytes(), type=of)
        except (OSError, *MALFORMED):
            return None

    def _write(self, kind: str, number: int, record: GalleryChange | GalleryVersion) -> bool:
        return atomic_files.write_bytes(
            self._path(kind, number), msgspec.json.encode(record), keep_existing=True
        )


def now() -> str:
    """UTC, ISO 8601."""
    return datetime.datetime.now(datetime.UTC).isoformat(timespec="milliseconds")


def _numbers(folder: Path) -> list[int]:
    """Of the numbered files of a folder, ascending."""
    try:
        names = [entry.name for entry in os.scandir(folder)]
    except OSError:
        return []
    return sorted(int(match[1]) for name in names if (match := _NUMBER.fullmatch(name)))
