"""Shrunk images on the disk, by the content hash of the image they were made of."""

from __future__ import annotations

import io
import logging
from pathlib import Path

from PIL import Image

from shared.atomic_files import write_bytes

logger = logging.getLogger(__name__)

_FAST_PNG = 1

_folder: Path | None = None


def keep_derivatives(folder: Path | None) -> None:
    """Where this process keeps shrunk images; None = nowhere."""
    global _folder
    _folder = folder


def are_kept() -> bool:
    return _folder is not None


def kept_derivative(kind: str, sha256: str, size: tuple[int, int]) -> Image.Image | None:
    """The image as RGB; None where there is none, or a damaged one.

    Args:
        kind: how it was shrunk.
        size: width and height.
    """
    try:
        with Image.open(_path(kind, sha256)) as opened:
            image = opened.convert("RGB")
    except (OSError, SyntaxError, ValueError):
        return None
    return image if image.size == size else None


def keep_derivative(kind: str, sha256: str, image: Image.Image) -> None:
    """Lossless. A disk that does not take it is told of: the image itself is still there."""
    path = _path(kind, sha256)
    content = io.BytesIO()
    image.save(content, "PNG", compress_level=_FAST_PNG)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_bytes(path, content.getvalue(), keep_existing=True)
    except OSError as error:
        logger.warning("%s cannot be written: %s", path, error)


def _path(kind: str, sha256: str) -> Path:
    if _folder is None:
        raise ValueError("no folder for derivatives")
    return _folder / kind / sha256[:2] / f"{sha256}.png"
