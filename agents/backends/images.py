"""Reads image files for the engines, with the checks that make a bad file fail alone."""

from __future__ import annotations

from PIL import Image

from agents.backends.contract import ImageFile
from shared.errors import ItemError
from shared.image_files import MAX_PIXELS

MIN_SIDE_PX = 2


def read_image(image: ImageFile) -> Image.Image:
    """The whole image, decoded, as RGB.

    Raises: ItemError: missing, unreadable, too small or too large; the message names the file.
    """
    try:
        with Image.open(image.path) as opened:
            width, height = opened.size
            if width * height > MAX_PIXELS:
                raise ItemError(
                    f"image {image.path} has {width}×{height} pixels, more than {MAX_PIXELS}"
                )
            if min(width, height) < MIN_SIDE_PX:
                raise ItemError(f"image {image.path} is only {width}×{height} pixels")
            return opened.convert("RGB")
    except ItemError:
        raise
    except FileNotFoundError as error:
        raise ItemError(f"image {image.path} is missing") from error
    except Exception as error:  # Pillow's decoders raise many unrelated types on broken files
        raise ItemError(f"image {image.path} can't be decoded: {error}") from error
