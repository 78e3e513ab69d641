"""The web page: plain HTML, CSS and ES modules, as they are served; and who reads them."""

from __future__ import annotations

from pathlib import Path

FOLDER = Path(__file__).parent


def read_text(name: str) -> str:
    """One of the page's files, e.g. a stylesheet that a report carries in itself."""
    return (FOLDER / name).read_text(encoding="utf-8")
