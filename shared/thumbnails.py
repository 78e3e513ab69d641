"""Small versions of images, made once: XR_HOME/thumbnails/<hash>-<width>.jpg."""

from __future__ import annotations

import io
from pathlib import Path

from PIL import Image

from shared import atomic_files
from shared.image_files import decode_image

WIDTHS = (80, 160, 320, 640, 1280)
"""Those that are kept; another width gets the next larger one, so that the cache is bounded."""
MEDIA_TYPE = "image/jpeg"
_QUALITY = 85


def kept_width(width: int) -> int:
    """The width a wish is served with."""
    return next((kept for kept in WIDTHS if kept >= width), WIDTHS[-1])


def thumbnail_path(folder: Path, sha256: str, width: int) -> Path:
    return folder / sha256[:2] / f"{sha256}-{kept_width(width)}.jpg"


def make_thumbnail(content: bytes, width: int) -> bytes:
    """A JPEG that is at most so wide and twice as high; a smaller image keeps its size.

    Raises: ItemError: damaged, or of too many pixels.
    """
    kept = kept_width(width)
    with decode_image(content) as image:
        image.thumbnail((kept, 2 * kept), Image.Resampling.LANCZOS)
        stream = io.BytesIO()
        image.save(stream, "JPEG", quality=_QUALITY)
    return stream.getvalue()


def keep_thumbnail(folder: Path, sha256: str, width: int, content: bytes) -> bytes:
    """The thumbnail of the image whose file holds `content`, from the cache or made now.

    Args:
        sha256: of `content`.
    Raises: ItemError: as `make_thumbnail`.
    """
    path = thumbnail_path(folder, sha256, width)
    if path.exists():
        return path.read_bytes()
    made = make_thumbnail(content, width)
    path.parent.mkdir(parents=True, exist_ok=True)
    atomic_files.write_bytes(path, made)
    return made
