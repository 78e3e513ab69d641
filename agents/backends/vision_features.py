"""Turns images into the features a chat model reads, once for all questions about an image."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any

import torch
from PIL import Image

from agents.backends.contract import ImageFile
from agents.backends.image_reader import ImageReader
from agents.caching import BoundedCache
from shared.errors import ConfigurationError, ItemError

Seen = tuple[str, int]
"""An image's content hash, and how many tiles it is cut into at most."""

_KNOWN_INPUTS = {"pixel_values", "num_patches"}


class VisionFeatures:
    """Image features of one model, kept by content hash.

    The vision tower always gets `rows` tiles (copies fill up the last pass), so that an image's
    features have the same bytes whichever images were processed with it.
    """

    def __init__(
        self,
        model: Any,
        processor: Any,
        rows: int,
        max_tiles: int,
        cache_bytes: int,
        counters: Counter[str],
    ) -> None:
        """Raises: ConfigurationError: the checkpoint cuts no tiles but several are asked for."""
        self._model = model
        self._processor = processor
        self._rows = rows
        self._max_tiles = max_tiles
        self._cache: BoundedCache[Seen, torch.Tensor] = BoundedCache(cache_bytes, "image_features")
        self._placeholders: dict[int, str] = {}
        self._cuts_tiles = hasattr(processor.image_processor, "crop_to_patches")
        self._reader = ImageReader(processor.image_processor, counters)
        if not self._cuts_tiles and max_tiles != 1:
            raise ConfigurationError(
                f"max_tiles is {max_tiles}, but this checkpoint's image processor cuts no tiles"
            )

    def seen(self, image: ImageFile, tiles: int) -> Seen:
        """The image as the model is to see it; 0 tiles = as many as the model is set to."""
        return image.sha256, tiles or self._max_tiles

    def of(self, images: Sequence[tuple[ImageFile, int]]) -> dict[Seen, torch.Tensor | ItemError]:
        """Features (tokens, hidden) of each (image, tiles), or why there are none."""
        found: dict[Seen, torch.Tensor | ItemError] = {}
        pixels: dict[Seen, torch.Tensor] = {}
        for image, wanted in images:
            seen = self.seen(image, wanted)
            if seen in found or seen in pixels:
                continue
            cached = self._cache.get(seen)
            if cached is not None:
                found[seen] = cached
                continue
            try:
                pixels[seen] = self._tiles(self._reader.read(image, seen[1]), seen[1])
            except ItemError as error:
                found[seen] = error
        for seen, features in zip(pixels, self._encode(list(pixels.values())), strict=True):
            self._cache.put(seen, features, features.numel() * features.element_size())
            found[seen] = features
        return found

    def placeholder(self, features: torch.Tensor) -> str:
        """The text that stands for an image with these features in the chat."""
        return self._placeholders[features.shape[0]]

    def _tiling(self, tiles: int) -> dict[str, Any]:
        if not self._cuts_tiles:
            return {}
        return {"crop_to_patches": tiles > 1, "max_patches": tiles}

    def _tiles(self, image: Image.Image, most: int) -> torch.Tensor:
        # One image at a time: resizing a stack of images may round differently.
        inputs = self._processor.image_processor(
            images=[image], return_tensors="pt", **self._tiling(most)
        )
        unknown = set(inputs) - _KNOWN_INPUTS
        if unknown:
            raise ConfigurationError(
                f"this checkpoint's images come as {sorted(inputs)}; this backend serves models "
                "that read pixel_values alone (InternVL, LLaVA)"
            )
        tiles: torch.Tensor = inputs["pixel_values"]
        self._learn_placeholder(image, most)
        return tiles

    def _learn_placeholder(self, image: Image.Image, most: int) -> None:
        """Ask the processor what stands for an image cut like this, and remember it.

        Cheap only the first time for each size: the number of tokens names the answer.
        """
        if self._placeholders and not (self._cuts_tiles and most > 1):
            return
        encoded = self._processor(
            text=[self._processor.image_token],
            images=[image],
            add_special_tokens=False,
            **self._tiling(most),
        )
        tokens = self._processor.tokenizer.convert_ids_to_tokens(encoded["input_ids"][0])
        count = tokens.count(self._processor.image_token)
        self._placeholders[count] = "".join(tokens)

    def _encode(self, images: Sequence[torch.Tensor]) -> list[torch.Tensor]:
        if not images:
            return []
        tiles = torch.cat(list(images)).to(self._model.device)
        passes = []
        for start in range(0, len(tiles), self._rows):
            block = tiles[start : start + self._rows]
            missing = self._rows - len(block)
            filled = torch.cat([block, block[:1].expand(missing, *block.shape[1:])])
            output = self._model.get_image_features(pixel_values=filled)
            features = output.pooler_output if hasattr(output, "pooler_output") else output
            passes.append(torch.stack(list(features))[: len(block)])
        per_tile = torch.cat(passes)
        # Cloned, so that a cached image doesn't keep its whole pass in memory.
        return [
            part.flatten(0, 1).clone() for part in per_tile.split([len(image) for image in images])
        ]
