"""Prompts as a vLLM engine takes them; what stands before the words is rendered once per image.

Rendering finds an image's placeholder in the token ids and puts as many tokens there as the image
has, in a thread of vLLM's. For all later questions about an image the outcome is the same up to and
with the image, so that only the words are put behind it.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from PIL import Image
from vllm.inputs import tokens_input
from vllm.v1.engine.async_llm import AsyncLLM

from agents.backends.vllm_requests import engine_prompt, tiling


class _Head(NamedTuple):
    """A rendered prompt up to and with its last image, and what vLLM says of its images."""

    token_ids: list[int]
    hashes: Mapping[str, Any]
    placeholders: Mapping[str, Any]

    def followed_by(self, words: Sequence[int]) -> dict[str, Any]:
        """The prompt in which the images are named; the engine must have them."""
        return {
            "type": "multimodal",
            "prompt_token_ids": [*self.token_ids, *words],
            "mm_kwargs": {kind: [None] * len(names) for kind, names in self.hashes.items()},
            "mm_hashes": self.hashes,
            "mm_placeholders": self.placeholders,
        }


class RenderedPrompts:
    """Renders prompts for one engine. Used from one event loop only."""

    def __init__(self, engine: AsyncLLM, image_id: int | None, max_tiles: int, kept: int) -> None:
        """
        Args:
            image_id: the token that stands for an image; None for a model that takes none.
            max_tiles: tiles an image is cut into unless a prompt says otherwise.
            kept: how many images' heads are kept.
        """
        self._engine = engine
        self._image_id = image_id
        self._max_tiles = max_tiles
        self._kept = kept
        self._heads: OrderedDict[tuple[object, ...], _Head] = OrderedDict()

    async def rendered(
        self,
        token_ids: list[int],
        names: Sequence[str],
        images: Sequence[Image.Image | None],
        tiles: int,
    ) -> Any:
        """The engine's input for one prompt.

        Args:
            names: those the engine keeps the images' features under.
            images: None for one the engine has.
        """
        if not names:
            return tokens_input(token_ids)
        place = len(token_ids) - token_ids[::-1].index(self._image_id)  # type: ignore[arg-type]
        before, words = token_ids[:place], token_ids[place:]
        key = (*names, *before)
        head = self._heads.get(key)
        if head is not None and all(image is None for image in images):
            self._heads.move_to_end(key)
            return head.followed_by(words)
        asked = engine_prompt(token_ids, names, images)
        if tiles != self._max_tiles:
            asked["mm_processor_kwargs"] = tiling(tiles)
        (rendered,) = await self._engine.renderer.render_cmpl_async([asked])
        self._keep(key, rendered, words)
        return rendered

    def _keep(self, key: tuple[object, ...], rendered: Mapping[str, Any], words: list[int]) -> None:
        ids = rendered["prompt_token_ids"]
        place = len(ids) - len(words)
        if ids[place:] != words:  # a model whose images change what comes after them
            return
        self._heads[key] = _Head(ids[:place], rendered["mm_hashes"], rendered["mm_placeholders"])
        while len(self._heads) > self._kept:
            self._heads.popitem(last=False)
