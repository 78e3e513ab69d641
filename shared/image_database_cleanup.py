"""Finds and removes what nobody needs: forgotten image databases, galleries and leftovers.

Nothing is removed that a benchmark run refers to, that has been used lately, that a living builder
holds, or that the last versions of a named gallery are. Older versions are not waited for: they go
when nobody used them for an hour. What is removed vanishes at once for readers: it is renamed
first.
"""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Literal, NamedTuple

from shared.errors import DatasetError
from shared.galleries import open_gallery
from shared.gallery_versions import IMAGES, KEPT_VERSIONS, GalleryHistory, GalleryVersion
from shared.image_database import MANIFEST, PARTS
from shared.image_database_inventory import (
    Inventory,
    keyed_folders,
    last_used_s,
    size_bytes,
    take_inventory,
)
from shared.image_database_parts import without_builder
from shared.named_galleries import all_named
from shared.settings import Settings

SETTLED_S = 3600.0
"""Nothing younger than an hour is removed, whatever is asked for: it may be about to be used."""


class Removal(NamedTuple):
    """Something nobody needs, why, and for how long it must not have been used."""

    path: Path
    kind: Literal["database", "gallery", "leftover"]
    size_bytes: int
    reason: str
    unused_s: float


def find_removable(settings: Settings, unused_s: float) -> list[Removal]:
    """What `remove` may take away.

    Args:
        unused_s: what was used within so many seconds stays; of superseded versions, an hour.
    """
    inventory, versions = take_inventory(settings), _versions(settings)
    waiting = _Waiting(max(unused_s, SETTLED_S), versions)
    databases = list(_databases(settings, inventory, waiting))
    removed = {removal.path.name for removal in databases}
    return [
        *databases,
        *_galleries(settings, inventory, waiting, removed),
        *_leftovers(settings),
        *_unlisted_images(settings),
    ]


def remove(removal: Removal) -> bool:
    """Take it away, unless somebody has come to use it since; returns whether it is gone."""
    is_parts = removal.path.name == PARTS
    with without_builder(removal.path if is_parts else removal.path / PARTS) as free:
        if not free or last_used_s(removal.path) >= time.time() - removal.unused_s:
            return False
        return take_away(removal.path)


def take_away(path: Path) -> bool:
    """Remove a file or a folder; nobody ever sees half of it. Returns whether it was there."""
    doomed = path.with_name(f".{path.name}.{os.getpid()}-removed.tmp")
    try:
        path.rename(doomed)
    except FileNotFoundError:
        return False
    if doomed.is_dir():
        shutil.rmtree(doomed, ignore_errors=True)
    else:
        doomed.unlink(missing_ok=True)
    return True


class _Versions(NamedTuple):
    """Keys of named galleries and their databases: those that stay, and the galleries of others."""

    kept_galleries: frozenset[str]
    kept_databases: frozenset[str]
    superseded: frozenset[str]


class _Waiting(NamedTuple):
    """For how long a gallery must not have been used."""

    unused_s: float
    versions: _Versions

    def of(self, gallery: str) -> float:
        return SETTLED_S if gallery in self.versions.superseded else self.unused_s


def _versions(settings: Settings) -> _Versions:
    kept: list[GalleryVersion] = []
    others: list[GalleryVersion] = []
    for named in all_named(settings.named_galleries_folder):
        versions = GalleryHistory(settings.home, named).versions()
        kept += versions[:KEPT_VERSIONS]
        others += versions[KEPT_VERSIONS:]
    galleries = frozenset(version.gallery for version in kept)
    return _Versions(
        galleries,
        frozenset(version.database for version in kept),
        frozenset(version.gallery for version in others) - galleries,
    )


def _databases(settings: Settings, inventory: Inventory, waiting: _Waiting) -> Iterator[Removal]:
    for entry in inventory.databases:
        folder, unused_s = settings.image_db_folder / entry.key, waiting.of(entry.gallery)
        if entry.runs or entry.state == "building" or entry.key in waiting.versions.kept_databases:
            continue
        if last_used_s(folder) < time.time() - unused_s:
            reason = f"{entry.state}, no run refers to it, last used {entry.last_used}"
            yield Removal(folder, "database", entry.size_bytes, reason, unused_s)


def _galleries(
    settings: Settings, inventory: Inventory, waiting: _Waiting, removed: set[str]
) -> Iterator[Removal]:
    for entry in inventory.galleries:
        folder, unused_s = settings.galleries_folder / entry.key, waiting.of(entry.key)
        if entry.runs or set(entry.databases) - removed:
            continue
        if entry.key in waiting.versions.kept_galleries:
            continue
        if last_used_s(folder) < time.time() - unused_s:
            reason = f"no run and no image database refers to it, last used {entry.last_used}"
            yield Removal(folder, "gallery", entry.size_bytes, reason, unused_s)


def _unlisted_images(settings: Settings) -> Iterator[Removal]:
    """Uploaded images that no gallery lists any more, and no change is about to."""
    before_s = time.time() - SETTLED_S
    uploads = settings.named_galleries_folder.glob(f"*/{IMAGES}/*")
    old = {str(path): path for path in uploads if last_used_s(path) < before_s}
    if not old:
        return
    for folder in keyed_folders(settings.galleries_folder):
        try:
            for entry in open_gallery(settings.galleries_folder, folder.name).listing:
                old.pop(entry.path, None)
        except DatasetError:
            return  # what a damaged or half-written gallery lists is not known
    for named in all_named(settings.named_galleries_folder):
        history = GalleryHistory(settings.home, named)
        current = history.current()
        after = 1 if current is None else current.number
        for change in history.changes(after, history.last_change()):
            for image in change.put:
                old.pop(image.path, None)
    for path in old.values():
        yield Removal(path, "leftover", size_bytes(path), "no gallery lists it", SETTLED_S)


def _leftovers(settings: Settings) -> Iterator[Removal]:
    """What processes that were killed had begun to write, and parts of what is finished."""
    before_s = time.time() - SETTLED_S
    for home in (settings.image_db_folder, settings.galleries_folder):
        folders = [home, *keyed_folders(home), *(path / PARTS for path in keyed_folders(home))]
        for folder in folders:
            for path in sorted(folder.glob(".*.tmp")):
                if 0.0 < last_used_s(path) < before_s:
                    yield Removal(
                        path, "leftover", size_bytes(path), "half-written, abandoned", SETTLED_S
                    )
    for folder in keyed_folders(settings.image_db_folder):
        parts = folder / PARTS
        if (folder / MANIFEST).exists() and parts.is_dir() and last_used_s(parts) < before_s:
            reason = "parts of a finished database"
            yield Removal(parts, "leftover", size_bytes(parts), reason, SETTLED_S)
