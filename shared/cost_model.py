"""What a benchmark asks of the GPUs: tokens, operations and hours, estimated before it is started.

Plain arithmetic: a forward pass costs 2 operations per weight and token, plus attention; writing a
token costs reading all weights once, shared by the requests of a batch. The floor is the time at
100 % of the GPU's peak; the estimate divides it by the share of the peak reached in practice.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

HOUR_S = 3600.0
TERA = 1e12


@dataclass(frozen=True)
class ModelSize:
    """What a chat model costs.

    Attributes:
        text_weights: weights of the language model that every token passes (without embeddings).
        layers, hidden: of the language model.
        vision_weights, vision_layers, vision_hidden: of the vision tower.
        tile_patches, tile_tokens: what a tile is to the vision tower, and to the language model.
        default_tiles: tiles its own processor cuts an ordinary photo into (with a thumbnail).
    """

    text_weights: float
    layers: int
    hidden: int
    vision_weights: float = 0.304e9
    vision_layers: int = 24
    vision_hidden: int = 1024
    tile_patches: int = 1025
    tile_tokens: int = 256
    default_tiles: int = 13

    def prefill_tflop(self, tokens: float, context: float) -> float:
        """Operations of reading `tokens`, at a mean context length of `context`, in TFLOP."""
        attention = 4 * self.layers * self.hidden * context / 2
        return tokens * (2 * self.text_weights + attention) / TERA

    def tile_tflop(self) -> float:
        """Operations of one tile in the vision tower, in TFLOP."""
        attention = 4 * self.vision_layers * self.vision_hidden * self.tile_patches
        return self.tile_patches * (2 * self.vision_weights + attention) / TERA


@dataclass(frozen=True)
class Gpu:
    """Peak dense bf16 rate in TFLOP/s, memory rate in TB/s, memory in GB (vendors' data sheets)."""

    tflop_per_s: float
    tb_per_s: float
    memory_gb: float


MODELS: Mapping[str, ModelSize] = MappingProxyType(
    {
        "InternVL3-1B": ModelSize(0.358e9, 24, 896),
        "InternVL3-2B": ModelSize(1.31e9, 28, 1536),
        "InternVL3-8B": ModelSize(6.53e9, 28, 3584),
        "InternVL3-14B": ModelSize(13.1e9, 48, 5120),
    }
)
"""Weights without embeddings: those of the Qwen2.5 language model each is built on."""

GPUS: Mapping[str, Gpu] = MappingProxyType(
    {
        "H200": Gpu(989, 4.8, 141),
        "H100": Gpu(989, 3.35, 80),
        "A100": Gpu(312, 2.0, 80),
        "L40S": Gpu(362, 0.864, 48),
        "L4": Gpu(121, 0.3, 24),
        "RTX4090": Gpu(165, 1.0, 24),
    }
)


@dataclass(frozen=True)
class Words:
    """Mean lengths in tokens of what is read and written.

    Attributes:
        instruction: the constant words of a yes/no prompt, shared by all questions about an image.
        question: one question and the words that end the turn.
        caption: one gallery caption.
        imagined: what one imagination writes; proposed: what the proposer writes.
        request: the words a generating prompt has besides its image.
    """

    instruction: int = 48
    question: int = 20
    caption: int = 80
    imagined: int = 160
    proposed: int = 80
    request: int = 300


@dataclass(frozen=True)
class Workload:
    """One benchmark.

    Attributes:
        gallery: images to caption first; 0 = the image database is there.
        candidates: k', verified per query; `verified_share` of them where verification stops early.
        max_tiles: tiles an image is cut into at most.
        resident_share: of the images and captions, those whose prefix is still in the engine from
            earlier queries.
        cached_share: of the candidates, those whose answers are kept from earlier runs.
        shared_prefix: image and instruction are computed once for all questions about an image.
        answer_tokens: tokens written per answer.
    """

    queries: int
    gallery: int = 0
    candidates: int = 100
    questions: int = 3
    max_tiles: int = 1
    verify_images: bool = True
    verify_captions: bool = True
    verified_share: float = 1.0
    resident_share: float = 0.0
    cached_share: float = 0.0
    shared_prefix: bool = True
    answer_tokens: int = 1


@dataclass(frozen=True)
class Cost:
    """Of one part of the work.

    Attributes:
        requests: to the engine.
        prefilled, decoded: tokens.
        tiles: through the vision tower.
        tflop: operations.
        floor_s: seconds at 100 % of the GPU's peak.
    """

    requests: float
    prefilled: float
    decoded: float
    tiles: float
    tflop: float
    floor_s: float

    def __add__(self, other: Cost) -> Cost:
        return Cost(
            self.requests + other.requests,
            self.prefilled + other.prefilled,
            self.decoded + other.decoded,
            self.tiles + other.tiles,
            self.tflop + other.tflop,
            self.floor_s + other.floor_s,
        )


def costs(
    work: Workload, model: ModelSize, gpu: Gpu, words: Words | None = None, batch: int = 128
) -> dict[str, Cost]:
    """Part of the work -> its cost, in the order the parts run.

    Args:
        batch: requests that write at the same time and share the reading of the weights.
    """
    words = words or Words()
    tiles = work.max_tiles + (work.max_tiles > 1)  # a thumbnail comes with several tiles
    image = tiles * model.tile_tokens

    def part(
        requests: float, prefilled: float, context: float, decoded: float, seen: float
    ) -> Cost:
        reading = model.prefill_tflop(prefilled, context) + seen * model.tile_tflop()
        writing = model.prefill_tflop(decoded, context)
        # bf16: two bytes a weight, read once per step of the batch.
        steps_s = decoded * 2 * model.text_weights / (batch * gpu.tb_per_s * TERA)
        floor_s = reading / gpu.tflop_per_s + max(writing / gpu.tflop_per_s, steps_s)
        return Cost(requests, prefilled, decoded, seen, reading + writing, floor_s)

    candidates = work.queries * work.candidates * work.verified_share * (1 - work.cached_share)
    asked = candidates * work.questions
    written = asked * (work.answer_tokens - 1)  # the first token comes out of the prefill
    parts: dict[str, Cost] = {}
    if work.gallery:
        parts["caption the gallery"] = part(
            work.gallery,
            work.gallery * (image + words.request),
            image + words.request,
            work.gallery * words.caption,
            work.gallery * tiles,
        )
    parts["imagine"] = part(
        2 * work.queries,
        work.queries * (image + 2 * words.request + words.caption),
        image + words.request,
        work.queries * 2 * words.imagined,
        work.queries * tiles,
    )
    parts["propose"] = part(
        work.queries,
        work.queries * words.request,
        words.request,
        work.queries * words.proposed,
        0,
    )
    if work.verify_images:
        prefix = image + words.instruction
        new = candidates * (1 - work.resident_share)
        read = (new * prefix if work.shared_prefix else asked * prefix) + asked * words.question
        seen = (new if work.shared_prefix else asked) * tiles
        parts["verify images"] = part(asked, read, prefix, written, seen)
    if work.verify_captions:
        prefix = words.caption + words.instruction
        new = candidates * (1 - work.resident_share)
        read = (new if work.shared_prefix else asked) * prefix + asked * words.question
        parts["verify captions"] = part(asked, read, prefix, written, 0)
    return parts


def total(parts: Mapping[str, Cost]) -> Cost:
    """All parts together."""
    whole = Cost(0, 0, 0, 0, 0, 0)
    for cost in parts.values():
        whole = whole + cost
    return whole


def gpu_hours(cost: Cost, share_of_peak: float) -> float:
    """Hours of one GPU that reaches `share_of_peak` of its peak rate."""
    return cost.floor_s / share_of_peak / HOUR_S
