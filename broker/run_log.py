"""A run's log.txt: what its coordinator says while it works on it."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Iterator
from pathlib import Path

from broker.run_store import LOG

logger = logging.getLogger(__name__)


@contextlib.contextmanager
def log_into(folder: Path, level: str) -> Iterator[None]:
    """Whatever is logged meanwhile also goes into the run's log.txt."""
    try:
        handler = logging.FileHandler(folder / LOG, encoding="utf-8")
    except OSError as error:
        logger.error("%s cannot be written: %s", folder / LOG, error)
        yield
        return
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(name)s: %(message)s"))
    handler.setLevel(level.upper())
    root = logging.getLogger()
    root.addHandler(handler)
    try:
        yield
    finally:
        root.removeHandler(handler)
        handler.close()
