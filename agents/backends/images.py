"""Reads image files for the engines, with the checks that make a bad file fail alone."""

from __future__ import annotations

from PIL import Image

from agents.backends.contract import ImageFile
from shared.errors import ItemError
from shared.image_files import decode_image, read_content

MIN_SIDE_PX = 2


def read_image(image: ImageFile) -> Image.Image:
    """The whole image, decoded, as RGB.

    Raises: ItemError: missing, unreadable, too small or too large; the message names the file.
    """
    try:
        pixels = decode_image(read_content(image.path))
    except ItemError as error:
        raise ItemError(f"image {image.path}: {error}") from error
    width, height = pixels.size
    if min(width, height) < MIN_SIDE_PX:
        raise ItemError(f"image {image.path} is only {width}×{height} pixels")
    return pixels
