"""Removes uploaded images that no gallery was made of, as their gateway was killed meanwhile."""

from __future__ import annotations

import asyncio
import logging
import math
import time
from pathlib import Path

from shared.datasets.registry import FOLDER_PREFIX
from shared.image_database_cleanup import take_away
from shared.named_galleries import all_named
from shared.settings import Settings

ABANDONED_AFTER_S = 24 * 3600.0
"""An upload whose gallery is not created by then never will be."""
_SWEEP_EVERY_S = 3600.0
_log = logging.getLogger(__name__)


def discard_upload(settings: Settings, folder: Path) -> bool:
    """Remove the folder of an upload, unless a gallery is made of it; whether it is gone."""
    if folder in _folders_of_galleries(settings):
        return False
    return take_away(folder)


async def keep_swept(settings: Settings) -> None:
    """Now and every hour, remove what gateways that were killed have left; never ends."""
    while True:
        try:
            await asyncio.to_thread(sweep_uploads, settings)
        except OSError as error:
            _log.warning("uploads that were given up cannot be removed: %s", error)
        await asyncio.sleep(_SWEEP_EVERY_S)


def sweep_uploads(settings: Settings) -> list[Path]:
    """Remove folders of uploads that are older than a day and that no gallery is made of."""
    parent = settings.uploaded_galleries_folder
    before_s = time.time() - ABANDONED_AFTER_S
    old = [path for path in _children(parent) if _modified_s(path) < before_s]
    # The galleries are looked up after the folders: one that is created meanwhile is younger.
    removed = [path for path in old if discard_upload(settings, path)]
    if removed:
        _log.info("%d uploads that no gallery was made of are removed", len(removed))
    return removed


def _children(folder: Path) -> list[Path]:
    return sorted(folder.iterdir()) if folder.is_dir() else []


def _modified_s(path: Path) -> float:
    """When it was modified last; never, if it is gone."""
    try:
        return path.stat().st_mtime
    except FileNotFoundError:
        return math.inf


def _folders_of_galleries(settings: Settings) -> set[Path]:
    return {
        Path(named.dataset.removeprefix(FOLDER_PREFIX))
        for named in all_named(settings.named_galleries_folder)
        if named.uploaded
    }
