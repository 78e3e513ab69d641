"""Small pictures of gallery images, for web pages and reports."""

from __future__ import annotations

import io

from shared.image_files import decode_image

MEDIA_TYPE = "image/webp"
_QUALITY = 82


def thumbnail(content: bytes, width: int) -> bytes:
    """An image file's picture as WebP, at most `width` pixels wide and 2 x `width` high.

    A smaller picture is not enlarged.

    Raises: ItemError: it cannot be decoded, or has too many pixels.
    """
    image = decode_image(content)
    image.thumbnail((width, 2 * width))
    encoded = io.BytesIO()
    image.save(encoded, "WEBP", quality=_QUALITY)
    return encoded.getvalue()
