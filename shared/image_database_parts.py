"""The parts of an image database under construction: small files, each wholly there or not at all.

A part holds the results of one step for one chunk of rows. The first part written stays, so that
any number of builders agree. `plan.msgpack` says how the rows are cut; every living builder holds a
shared lock on it, by which a clean-up knows that the folder is in use.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import shutil
import weakref
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Literal, TypeVar

import msgspec

from shared import atomic_files
from shared.contracts.skills import Caption, ItemFailure, Vector
from shared.embedding_check import what_is_wrong
from shared.errors import MALFORMED, TransientError
from shared.galleries import mark_used

PartKind = Literal["captions", "images", "caption-embeddings"]

_PLAN = "plan.msgpack"


class CaptionPart(msgspec.Struct, frozen=True):
    """Row -> caption, and row -> why there is none."""

    captions: dict[int, str]
    failures: dict[int, str]

    def rows(self) -> set[int]:
        return self.captions.keys() | self.failures.keys()


class VectorPart(msgspec.Struct, frozen=True):
    """Row -> unit vector, float32 little-endian, and row -> why there is none."""

    vectors: dict[int, bytes]
    failures: dict[int, str]

    def rows(self) -> set[int]:
        return self.vectors.keys() | self.failures.keys()


class _Plan(msgspec.Struct, frozen=True):
    chunk_rows: int
    gallery: str
    former: str = ""


Part = TypeVar("Part", CaptionPart, VectorPart)
Decoded = TypeVar("Decoded", _Plan, CaptionPart, VectorPart)


def caption_part(rows: Sequence[int], results: Sequence[Caption | ItemFailure]) -> CaptionPart:
    """One result per row; an empty caption is a failure."""
    part = CaptionPart({}, {})
    for row, result in zip(rows, results, strict=True):
        if isinstance(result, ItemFailure):
            part.failures[row] = result.reason
        elif not result.text.strip():
            part.failures[row] = "the caption is empty"
        else:
            part.captions[row] = result.text
    return part


def vector_part(rows: Sequence[int], results: Sequence[Vector | ItemFailure]) -> VectorPart:
    """One result per row; what is no finite vector of length 1 is a failure."""
    part = VectorPart({}, {})
    for row, result in zip(rows, results, strict=True):
        if isinstance(result, ItemFailure):
            part.failures[row] = result.reason
        elif problem := what_is_wrong(result.values):
            part.failures[row] = problem
        else:
            part.vectors[row] = result.values
    return part


class Parts:
    """One builder's hand on the folder of parts.

    Attributes:
        chunk_rows: rows per part, as whoever began the database has chosen it.
        former: key of the database that rows are taken over from, likewise; empty = none.
    """

    def __init__(self, folder: Path, gallery_key: str, chunk_rows: int, former: str = "") -> None:
        self._folder = folder
        plan, lock = _agree_on_plan(folder, _Plan(chunk_rows, gallery_key, former))
        self.chunk_rows = plan.chunk_rows
        self.former = plan.former
        mark_used(folder)
        self._release = weakref.finalize(self, os.close, lock)

    def has(self, kind: PartKind, first_row: int) -> bool:
        return self._path(kind, first_row).exists()

    def put(self, kind: PartKind, first_row: int, part: CaptionPart | VectorPart) -> None:
        """Keep a part, unless another builder was first."""
        path = self._path(kind, first_row)
        path.parent.mkdir(parents=True, exist_ok=True)
        atomic_files.write_bytes(path, msgspec.msgpack.encode(part), keep_existing=True)

    def read(self, kind: PartKind, first_row: int, rows: Sequence[int], of: type[Part]) -> Part:
        """The part of the chunk that begins at `first_row`.

        Args:
            rows: what the part may speak of; captions and images speak of each of them.
        Raises:
            FileNotFoundError: it is not there.
            TransientError: it was damaged, and is gone now.
        """
        path = self._path(kind, first_row)
        part = _decode(path, of)
        named, known = part.rows(), set(rows)
        if named != known and (kind != "caption-embeddings" or not named <= known):
            raise _dropped(path)
        return part

    def drop(self) -> None:
        """Remove all parts: the database is finished, or has to begin anew."""
        shutil.rmtree(self._folder, ignore_errors=True)
        self._release()

    def _path(self, kind: PartKind, first_row: int) -> Path:
        return self._folder / f"{kind}-{first_row:08d}.msgpack"


def is_being_built(folder: Path) -> bool:
    """Whether a living builder on this machine (or one that shares its locks) holds the parts."""
    with without_builder(folder) as free:
        return not free


@contextlib.contextmanager
def without_builder(folder: Path) -> Iterator[bool]:
    """Yields whether nobody builds here; if so, no builder can begin before the block ends."""
    lock = None
    try:
        lock = os.open(folder / _PLAN, os.O_RDONLY)
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        free = True
    except BlockingIOError:
        free = False
    except OSError:  # no parts, or a file system without locks: then nobody can say
        free = True
    try:
        yield free
    finally:
        if lock is not None:
            os.close(lock)


def gallery_being_built(folder: Path) -> str:
    """The key of the gallery whose database the parts are of; empty when nobody can say."""
    try:
        return msgspec.msgpack.decode((folder / _PLAN).read_bytes(), type=_Plan).gallery
    except (OSError, *MALFORMED):
        return ""


def _agree_on_plan(folder: Path, plan: _Plan) -> tuple[_Plan, int]:
    """The plan of whoever began, and a descriptor that holds the lock."""
    path = folder / _PLAN
    while True:
        path.parent.mkdir(parents=True, exist_ok=True)
        with contextlib.suppress(FileNotFoundError):  # a clean-up has just removed the folder
            atomic_files.write_bytes(path, msgspec.msgpack.encode(plan), keep_existing=True)
            agreed = _decode(path, _Plan)
            lock = os.open(path, os.O_RDONLY)
            with contextlib.suppress(OSError):  # a file system without locks
                fcntl.flock(lock, fcntl.LOCK_SH)
            if path.exists() and os.path.samestat(os.fstat(lock), path.stat()):
                return agreed, lock
            os.close(lock)


def _decode(path: Path, of: type[Decoded]) -> Decoded:
    try:
        return msgspec.msgpack.decode(path.read_bytes(), type=of)
    except MALFORMED as error:
        raise _dropped(path) from error


def _dropped(path: Path) -> TransientError:
    path.unlink(missing_ok=True)
    return TransientError(f"{path} was damaged and has been dropped; build again")
