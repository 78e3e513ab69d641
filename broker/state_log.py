"""An append-only file of records that survives a kill: a torn tail is cut off at open."""

from __future__ import annotations

import asyncio
import logging
import os
import struct
import zlib
from pathlib import Path
from typing import NamedTuple

from shared import atomic_files
from shared.errors import PermanentError

logger = logging.getLogger(__name__)

MARKER = b"\xf7XRs"
_HEADER = struct.Struct("<4sII")  # marker, payload length, crc32 of length and payload


def frame(payload: bytes) -> bytes:
    """`payload` as it stands in the file: marker, length, checksum, payload."""
    return _HEADER.pack(MARKER, len(payload), _checksum(payload)) + payload


class Place(NamedTuple):
    """Where a payload stands in the file, in bytes."""

    offset: int
    length: int


def read_frames(content: bytes, path: Path) -> tuple[list[bytes], int]:
    """All whole payloads of a log's content, and how many bytes they take; see `find_frames`."""
    places, whole = find_frames(content, path)
    return [content[place.offset : place.offset + place.length] for place in places], whole


def find_frames(content: bytes, path: Path) -> tuple[list[Place], int]:
    """The places of all whole payloads of a log's content, and how many bytes the frames take.

    Bytes after the last whole frame are what a kill left of a write under way. A broken frame with
    a whole one behind it is something else: the disk lost what had been written.

    Raises: PermanentError: corruption before the end, with the offset.
    """
    places: list[Place] = []
    offset = 0
    while (payload := _whole_frame_at(content, offset)) is not None:
        places.append(Place(offset + _HEADER.size, len(payload)))
        offset += _HEADER.size + len(payload)
    later = content.find(MARKER, offset + 1)
    while later >= 0:
        if _whole_frame_at(content, later) is not None:
            raise PermanentError(
                f"{path} is corrupt at byte {offset} (record {len(places)}), with good records "
                f"behind it: restore the file from a copy, or start a new run"
            )
        later = content.find(MARKER, later + 1)
    return places, offset


def _whole_frame_at(content: bytes, offset: int) -> bytes | None:
    if len(content) - offset < _HEADER.size:
        return None
    marker, length, checksum = _HEADER.unpack_from(content, offset)
    start = offset + _HEADER.size
    payload = content[start : start + length]
    if marker != MARKER or len(payload) != length or checksum != _checksum(payload):
        return None
    return payload


def _checksum(payload: bytes) -> int:
    return zlib.crc32(payload, zlib.crc32(len(payload).to_bytes(4, "little")))


class StateLog:
    """One writer's log file. Opening cuts a torn tail off and finds the records that are there.

    Attributes:
        places: the records found at opening, in the order written.
    """

    def __init__(self, path: Path) -> None:
        is_new = not path.exists()
        content = b"" if is_new else path.read_bytes()
        self.places, whole = find_frames(content, path)
        if whole < len(content):
            logger.warning("%s: cut off %d bytes of a torn record", path, len(content) - whole)
        # O_APPEND: should a frozen former owner of the run wake up, it overwrites nothing.
        flags = os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC
        self._descriptor = os.open(path, flags, 0o644)
        os.ftruncate(self._descriptor, whole)
        if is_new:  # its name must survive a power cut too
            atomic_files.flush_folder(path.parent)
        self._end = whole
        self._unwritten: list[bytes] = []
        self._next_write: asyncio.Task[None] | None = None
        self._writing = asyncio.Lock()
        self._broken: OSError | None = None

    def read(self, place: Place) -> bytes:
        """The payload of a record that is on the disk. Raises: OSError: it cannot be read."""
        return os.pread(self._descriptor, place.length, place.offset)

    async def append(self, payload: bytes) -> Place:
        """Returns where the record stands, once it does; those that come meanwhile share a fsync.

        Raises: OSError: it could not be written; so does every later call, as the file's end is
            unknown until it is opened anew.
        """
        framed = frame(payload)
        place = Place(self._end + _HEADER.size, len(payload))
        self._end += len(framed)  # records are written in the order of the calls
        self._unwritten.append(framed)
        if self._next_write is None:
            self._next_write = asyncio.create_task(self._write_together())
        await asyncio.shield(self._next_write)  # a cancelled query's neighbours still get written
        return place

    async def _write_together(self) -> None:
        async with self._writing:
            frames, self._unwritten, self._next_write = self._unwritten, [], None
            if self._broken is not None:
                raise self._broken
            try:
                await asyncio.to_thread(self._write, b"".join(frames))
            except OSError as error:
                self._broken = error
                raise

    def _write(self, content: bytes) -> None:
        view = memoryview(content)
        while view:
            view = view[os.write(self._descriptor, view) :]
        os.fsync(self._descriptor)

    async def close(self) -> None:
        """Waits for what is being written."""
        if self._next_write is not None:
            await asyncio.wait([self._next_write])
        async with self._writing:
            os.close(self._descriptor)
