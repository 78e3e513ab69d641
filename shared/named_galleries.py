"""Galleries that were created by a name: where their images lie, and the run that indexes them.

One file each, XR_HOME/named_galleries/<name>.json; whoever creates it first has the name.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import msgspec

from shared import atomic_files
from shared.errors import MALFORMED, DatasetError, PermanentError

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
_KEY = re.compile(r"[0-9a-f]{32}")


class NamedGallery(msgspec.Struct, frozen=True, kw_only=True):
    """One of them.

    Attributes:
        dataset: what the indexing run reads, "folder:PATH".
        uploaded: its images were uploaded, and are removed with it.
        run_id: the run that indexes it; empty until it is queued.
        owner: the API key that created it; empty = everybody's.
    """

    name: str
    dataset: str
    uploaded: bool = False
    run_id: str = ""
    owner: str = ""


class NameTakenError(PermanentError):
    """There is a gallery of this name."""


def check_name(name: str) -> None:
    """Raises: DatasetError: no name for a gallery, or one that could be a key."""
    if not _NAME.fullmatch(name) or _KEY.fullmatch(name):
        raise DatasetError(
            f"{name!r} is no name for a gallery: use up to 64 letters, digits, dots, dashes and "
            "underscores, beginning with a letter or digit, and not 32 hexadecimal digits"
        )


def claim_name(folder: Path, gallery: NamedGallery) -> None:
    """Raises: NameTakenError. DatasetError: no name for a gallery."""
    check_name(gallery.name)
    folder.mkdir(parents=True, exist_ok=True)
    content = msgspec.json.encode(gallery)
    if not atomic_files.write_bytes(_path(folder, gallery.name), content, keep_existing=True):
        raise NameTakenError(f"there is a gallery {gallery.name!r} already: choose another name")


def keep_named(folder: Path, gallery: NamedGallery) -> None:
    """Write down a change of a gallery whose name is claimed."""
    atomic_files.write_bytes(_path(folder, gallery.name), msgspec.json.encode(gallery))


def find_named(folder: Path, name: str) -> NamedGallery | None:
    if not _NAME.fullmatch(name):
        return None
    try:
        return msgspec.json.decode(_path(folder, name).read_bytes(), type=NamedGallery)
    except (OSError, *MALFORMED):
        return None


def all_named(folder: Path) -> Iterator[NamedGallery]:
    """In the order of their names."""
    for path in sorted(folder.glob("*.json")) if folder.is_dir() else ():
        found = find_named(folder, path.stem)
        if found is not None:
            yield found


def forget_name(folder: Path, name: str) -> None:
    _path(folder, name).unlink(missing_ok=True)


def _path(folder: Path, name: str) -> Path:
    return folder / f"{name}.json"
