"""Files and folders that are either wholly there or not there at all, whatever is killed when.

Everything is written under a hidden temporary name in the same folder, flushed to the disk, renamed
into place, and the folder is flushed too: after the call returns, a power cut keeps the file.
"""

from __future__ import annotations

import contextlib
import json
import os
import secrets
import shutil
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any


def write_bytes(path: Path, data: bytes, *, keep_existing: bool = False) -> bool:
    """Put `data` at `path`, replacing what is there.

    Args:
        keep_existing: the first writer wins: a file already there stays as it is.
    Returns: whether `data` is what now lies at `path` by this call.
    """
    if keep_existing and path.exists():
        return False
    with scratch_file(path) as temporary:
        with temporary.open("xb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        written = _place_first(temporary, path) if keep_existing else _place(temporary, path)
    flush_folder(path.parent)
    return written


def write_json(path: Path, value: Any, *, indent: int | None = 2) -> None:
    """`value` as UTF-8 JSON, keys in the order given.

    Raises: ValueError: NaN or infinity, which JSON does not have.
    """
    write_bytes(path, _encode_json(value, indent) + b"\n")


def write_jsonl(path: Path, rows: Iterable[Any]) -> None:
    """One JSON value per line; `rows` is consumed lazily, so that it may be long."""
    with replacing(path) as temporary, temporary.open("wb") as file:
        for row in rows:
            file.write(_encode_json(row, None) + b"\n")


@contextlib.contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Yield a temporary path to write; at the end of the block it becomes `path`.

    When the block raises, or writes nothing, `path` stays as it was.
    """
    with scratch_file(path) as temporary:
        yield temporary
        move_into_place(temporary, path)


@contextlib.contextmanager
def scratch_file(path: Path) -> Iterator[Path]:
    """Yield a temporary path beside `path` to write; it is gone at the end of the block.

    For a file whose place is known only when it is written: see `move_into_place`. An OSError that
    names no file (a full disk does not) is given the name of `path`.
    """
    temporary = _temporary_name(path)
    try:
        yield temporary
    except OSError as error:
        error.filename = error.filename or str(path)
        raise
    finally:
        temporary.unlink(missing_ok=True)


def move_into_place(temporary: Path, path: Path) -> None:
    """A file on the same volume, whole by now, becomes `path`."""
    _flush_file(temporary)
    _place(temporary, path)
    flush_folder(path.parent)


@contextlib.contextmanager
def building_folder(path: Path) -> Iterator[Path]:
    """Yield an empty temporary folder to fill; at the end of the block it becomes `path`.

    When somebody else finished the same folder meanwhile, theirs stays and ours is dropped.
    When the block raises, nothing is left at `path`.
    """
    _make_folders(path.parent)
    temporary = _temporary_name(path)
    temporary.mkdir()
    try:
        yield temporary
        for folder, _, names in os.walk(temporary):
            for name in names:
                _flush_file(Path(folder, name))
            flush_folder(Path(folder))
        try:
            temporary.rename(path)
        except OSError:
            if not path.is_dir():
                raise
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    flush_folder(path.parent)


def _make_folders(folder: Path) -> None:
    """As `mkdir(parents=True, exist_ok=True)`; the new names survive a power cut."""
    if not folder.is_dir():
        _make_folders(folder.parent)
        folder.mkdir(exist_ok=True)
        flush_folder(folder.parent)


def _temporary_name(path: Path) -> Path:
    return path.with_name(f".{path.name}.{os.getpid()}-{secrets.token_hex(6)}.tmp")


def _place(temporary: Path, path: Path) -> bool:
    temporary.replace(path)
    return True


def _place_first(temporary: Path, path: Path) -> bool:
    try:
        os.link(temporary, path)
    except FileExistsError:
        return False
    except OSError:  # a file system without hard links: the window of the race is one rename wide
        if path.exists():
            return False
        temporary.replace(path)
    return True


def _flush_file(path: Path) -> None:
    with path.open("rb") as file:
        os.fsync(file.fileno())


def flush_folder(folder: Path) -> None:
    """Make the names in a folder survive a power cut."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        # Some network file systems refuse fsync on folders; the rename is atomic there too.
        with contextlib.suppress(OSError):
            os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _encode_json(value: Any, indent: int | None) -> bytes:
    separators = (",", ":") if indent is None else (",", ": ")
    text = json.dumps(
        value, ensure_ascii=False, allow_nan=False, indent=indent, separators=separators
    )
    return text.encode("utf-8")
