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
    """`count` tokens, each of those that mean a choice."""
    allowed = [token for tokens in token_ids for token in tokens]
    return SamplingParams(
        temperature=0,
        max_tokens=count,
        min_tokens=count,
        allowed_token_ids=allowed,
        logprob_token_ids=allowed,
        detokenize=False,
        output_kind=RequestOutputKind.FINAL_ONLY,
    )


def probabilities(output: Any, token_ids: Sequence[Sequence[int]]) -> tuple[float, ...]:
    """The softmax over the choices' tokens alone, of one choice after the other."""
    found_all: list[float] = []
    for found in output.logprobs:
        weights = [sum(math.exp(found[token].logprob) for token in one) for one in token_ids]
        total = sum(weights)
        found_all += [weight / total for weight in weights]
    return tuple(found_all)
