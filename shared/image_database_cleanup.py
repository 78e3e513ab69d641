"""Finds and removes what nobody needs: forgotten image databases, galleries and leftovers.

Nothing is removed that a benchmark run refers to, that has been used lately, or that a living
builder holds. What is removed vanishes at once for readers: it is renamed first.
"""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Literal, NamedTuple

from shared.image_database import MANIFEST, PARTS
from shared.image_database_inventory import (
    Inventory,
    keyed_folders,
    last_used_s,
    size_bytes,
    take_inventory,
)
from shared.image_database_parts import without_builder
from shared.settings import Settings

SETTLED_S = 3600.0
"""Nothing younger than an hour is removed, whatever is asked for: it may be about to be used."""


class Removal(NamedTuple):
    """Something nobody needs, and why."""

    path: Path
    kind: Literal["database", "gallery", "leftover"]
    size_bytes: int
    reason: str


def find_removable(settings: Settings, unused_s: float) -> list[Removal]:
    """What `remove` may take away.

    Args:
        unused_s: what was used within so many seconds stays.
    """
    before_s = time.time() - max(unused_s, SETTLED_S)
    inventory = take_inventory(settings)
    databases = list(_databases(settings, inventory, before_s))
    removed = {removal.path.name for removal in databases}
    return [
        *databases,
        *_galleries(settings, inventory, before_s, removed),
        *_leftovers(settings),
    ]


def remove(removal: Removal, unused_s: float) -> bool:
    """Take it away, unless somebody has come to use it since; returns whether it is gone."""
    if removal.kind == "leftover":
        unused_s = 0.0
    is_parts = removal.path.name == PARTS
    with without_builder(removal.path if is_parts else removal.path / PARTS) as free:
        if not free or last_used_s(removal.path) >= time.time() - max(unused_s, SETTLED_S):
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


def _databases(settings: Settings, inventory: Inventory, before_s: float) -> Iterator[Removal]:
    for entry in inventory.databases:
        folder = settings.image_db_folder / entry.key
        if entry.runs or entry.state == "building" or last_used_s(folder) >= before_s:
            continue
        reason = f"{entry.state}, no run refers to it, last used {entry.last_used}"
        yield Removal(folder, "database", entry.size_bytes, reason)


def _galleries(
    settings: Settings, inventory: Inventory, before_s: float, removed: set[str]
) -> Iterator[Removal]:
    for entry in inventory.galleries:
        folder = settings.galleries_folder / entry.key
        if entry.runs or set(entry.databases) - removed or last_used_s(folder) >= before_s:
            continue
        reason = f"no run and no image database refers to it, last used {entry.last_used}"
        yield Removal(folder, "gallery", entry.size_bytes, reason)


def _leftovers(settings: Settings) -> Iterator[Removal]:
    """What processes that were killed had begun to write, and parts of what is finished."""
    before_s = time.time() - SETTLED_S
    for home in (settings.image_db_folder, settings.galleries_folder):
        folders = [home, *keyed_folders(home), *(path / PARTS for path in keyed_folders(home))]
        for folder in folders:
            for path in sorted(folder.glob(".*.tmp")):
                if 0.0 < last_used_s(path) < before_s:
                    yield Removal(path, "leftover", size_bytes(path), "half-written, abandoned")
    for folder in keyed_folders(settings.image_db_folder):
        parts = folder / PARTS
        if (folder / MANIFEST).exists() and parts.is_dir() and last_used_s(parts) < before_s:
            yield Removal(parts, "leftover", size_bytes(parts), "parts of a finished database")
