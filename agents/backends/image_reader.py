"""Reads images as a model takes them: a large one is shrunk once, when first seen, and kept so.

A model that looks at one tile of fixed size throws most of a photograph away. What its own image
processor makes of the photograph, before it is scaled to numbers, is written to the disk under the
photograph's content hash: at ingest, as captioning is the first to look. It is lossless, so that
the model's input is the same, to the byte, whether it comes from the photograph or from there.
"""

from __future__ import annotations

from collections import Counter
from typing import Any

import numpy as np
import torch
from PIL import Image

from agents.backends.contract import ImageFile
from agents.backends.images import read_image
from agents.derivatives import are_kept, keep_derivative, kept_derivative
from agents.spending import spend

_WORTH_KEEPING = 4
"""Pixels of an image over those of a tile, from which on shrinking pays."""


class ImageReader:
    """Reads images for one model.

    Attributes:
        counters: images_decoded (whole images) and derivatives_read.
    """

    def __init__(self, image_processor: Any, counters: Counter[str]) -> None:
        self._processor = image_processor
        self._side = _one_tile(image_processor)
        self._counters = counters

    def read(self, image: ImageFile, tiles: int) -> Image.Image:
        """The image as RGB: whole, or, for a model that takes one tile of it, perhaps shrunk to it.

        Raises: ItemError: missing or broken.
        """
        if self._side is None or tiles != 1 or not are_kept():
            spend(self._counters, images_decoded=1)
            return read_image(image)
        height, width = self._side
        kind = f"{height}x{width}-{int(self._processor.resample)}"
        kept = kept_derivative(kind, image.sha256, (width, height))
        if kept is not None:
            spend(self._counters, derivatives_read=1)
            return kept
        spend(self._counters, images_decoded=1)
        whole = read_image(image)
        if whole.width * whole.height < _WORTH_KEEPING * width * height:
            return whole
        shrunk = self._shrunk(whole, height, width)
        keep_derivative(kind, image.sha256, shrunk)
        return shrunk

    def _shrunk(self, image: Image.Image, height: int, width: int) -> Image.Image:
        """By the processor's own resizing, which then finds nothing left to do."""
        from transformers.image_utils import SizeDict

        pixels = torch.from_numpy(np.array(image)).permute(2, 0, 1)
        size = SizeDict(height=height, width=width)
        resized = self._processor.resize(pixels, size, resample=self._processor.resample)
        return Image.fromarray(resized.permute(1, 2, 0).contiguous().numpy())


def _one_tile(processor: Any) -> tuple[int, int] | None:
    """(height, width) of the one tile a model takes; None for models whose input is otherwise."""
    size = getattr(processor, "size", None)
    height, width = getattr(size, "height", None), getattr(size, "width", None)
    fixed = hasattr(processor, "crop_to_patches") and getattr(processor, "do_resize", False)
    return (int(height), int(width)) if fixed and height and width else None
