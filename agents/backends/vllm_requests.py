"""What a vLLM engine is asked, in its own words, and what its answers mean."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from PIL import Image
from vllm import SamplingParams
from vllm.sampling_params import RequestOutputKind


def tiling(tiles: int) -> dict[str, Any]:
    """How an image processor that cuts tiles is told so."""
    return {"crop_to_patches": tiles > 1, "max_patches": tiles}


def image_arguments(
    config: Any, processor: Any, max_tiles: int, adaptive_tiles: int
) -> dict[str, Any]:
    """How the engine is to cut images, and the largest it must be ready for.

    Raises: ValueError: the checkpoint cuts no tiles but several are asked for.
    """
    limits: dict[str, Any] = {"count": 2}
    arguments: dict[str, Any] = {}
    if hasattr(processor.image_processor, "crop_to_patches"):
        arguments["mm_processor_kwargs"] = tiling(max_tiles)
        size = config.vision_config.image_size
        height, width = (size, size) if isinstance(size, int) else size
        limits |= {"width": width * max(max_tiles, adaptive_tiles), "height": height}
    elif max_tiles != 1 or adaptive_tiles:
        raise ValueError("several tiles are asked for, but its image processor cuts none")
    arguments["limit_mm_per_prompt"] = {"image": limits, "video": 0}
    return arguments


def engine_prompt(
    token_ids: list[int], names: Sequence[str], images: Sequence[Image.Image | None]
) -> dict[str, Any]:
    """`names` are those the engine keeps the images' features under."""
    prompt: dict[str, Any] = {"prompt_token_ids": token_ids}
    if names:
        prompt["multi_modal_data"] = {"image": list(images)}
        prompt["multi_modal_uuids"] = {"image": list(names)}
    return prompt


def one_of(token_ids: Sequence[Sequence[int]], count: int) -> SamplingParams:
    """`count` tokens, each of those that mean a choice; may serve any number of requests."""
    allowed = [token for tokens in token_ids for token in tokens]
    return SamplingParams(
        temperature=0,
        max_tokens=count,
        min_tokens=count,
        allowed_token_ids=allowed,
        logprob_token_ids=allowed,
        detokenize=False,
        skip_clone=True,
        output_kind=RequestOutputKind.FINAL_ONLY,
    )


class ImageDroppedError(ValueError):
    """The engine no longer has an image that it was not sent."""


def finished(output: Any) -> Any:
    """The answer of a request that has ended.

    Raises: ImageDroppedError: vLLM says so by an empty answer, and will send the image next time.
    """
    answer = output.outputs[0]
    if answer.finish_reason == "error":
        raise ImageDroppedError("the engine has ended the request")
    return answer


def probabilities(output: Any, token_ids: Sequence[Sequence[int]]) -> tuple[float, ...]:
    """The softmax over the choices' tokens alone, of one choice after the other."""
    found_all: list[float] = []
    for found in output.logprobs:
        weights = [sum(math.exp(found[token].logprob) for token in one) for one in token_ids]
        total = sum(weights)
        found_all += [weight / total for weight in weights]
    return tuple(found_all)
