"""Trains the demo's CLIP: which rendered scene belongs to which caption.

Batches hold random scenes only, no near-duplicates, so that the model ends like large ones do: it
knows what a picture is about and is unsure of fine differences.
"""

from __future__ import annotations

import argparse
import json
import random
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Final

import numpy as np
import open_clip
import torch
from numpy.typing import NDArray
from safetensors.torch import save_file
from torch import Tensor, nn
from transformers import PreTrainedTokenizerFast

from agents.training.optimisation import MixedOptimiser, ProgressLog, pad_right
from agents.training.scene_labels import SceneReadout, scene_labels
from agents.training.vocabulary import demo_tokenizer, ending_tokenizer
from shared.demo_world.language import caption, phrase
from shared.demo_world.phrasing import human_caption
from shared.demo_world.render import IMAGE_SIZE, render
from shared.demo_world.scene import Scene
from shared.demo_world.splits import stream_seed, training_rng, training_scene, training_triplet

PATCH: Final = 24
CONTEXT: Final = 64
MEAN: Final = (0.5, 0.5, 0.5)
STD: Final = (0.25, 0.25, 0.25)
_HIGHEST_SCALE: Final = 4.6052
"""The logarithm of 100, CLIP's customary bound of its logit scale."""


@dataclass(frozen=True)
class Pair:
    """A scene and a text that is true of it; `whole` if the text is its full caption."""

    scene: Scene
    text: str
    whole: bool


def draw_pair(rng: random.Random) -> Pair:
    """Half full captions, 40 % free wording, 10 % texts on some of the groups."""
    kind = rng.random()
    if kind < 0.05:
        _, modification, target = training_triplet(rng)
        return Pair(target, rng.choice((modification.core, modification.enhanced)), False)
    scene = training_scene(rng)
    if kind < 0.1:
        shown = rng.sample(scene.groups, rng.randint(1, len(scene.groups)))
        parts = [phrase(group) for group in shown]
        if rng.random() < 0.5:
            parts.append(f"on {scene.background}")
        return Pair(scene, ", ".join(parts) + ".", False)
    if kind < 0.5:
        return Pair(scene, human_caption(scene, rng), False)
    return Pair(scene, caption(scene), True)


class PairPool:
    """Rendered training scenes and texts; each epoch draws them all, in another order.

    Drawing images again saves rendering them, which would take a fifth of the training time; most
    free wordings of a scene are new in each epoch.
    """

    def __init__(self, stream: str, size: int) -> None:
        self._pairs = [draw_pair(training_rng(stream, index)) for index in range(size)]
        self._images = np.stack(
            [
                render(pair.scene, np.random.default_rng(stream_seed(stream, "image", index)))
                for index, pair in enumerate(self._pairs)
            ]
        )
        self._order: list[int] = []
        self._stream, self._epoch = stream, 0

    def draw(self, rows: int) -> tuple[NDArray[np.uint8], list[Pair]]:
        """(rows, 144, 144, 3) images and their pairs, most free wordings drawn anew."""
        if len(self._order) < rows:
            self._order = list(range(len(self._pairs)))
            random.Random(stream_seed(self._stream, "order", self._epoch)).shuffle(self._order)
            self._epoch += 1
        chosen = [self._order.pop() for _ in range(rows)]
        rng = random.Random(stream_seed(self._stream, "text", self._epoch, len(self._order)))
        pairs = [self._reworded(self._pairs[index], rng) for index in chosen]
        return self._images[chosen], pairs

    def _reworded(self, pair: Pair, rng: random.Random) -> Pair:
        if pair.whole or rng.random() < 0.2:
            return pair
        return Pair(pair.scene, human_caption(pair.scene, rng), False)


def model_config(vocab_size: int, width: int, layers: int, embed_dim: int) -> dict[str, Any]:
    """open_clip's model_cfg: two small transformers of the same width and depth."""
    return {
        "embed_dim": embed_dim,
        "vision_cfg": {
            "image_size": IMAGE_SIZE, "patch_size": PATCH, "layers": layers, "width": width,
            "head_width": 32, "mlp_ratio": 2.0,
        },
        "text_cfg": {
            "context_length": CONTEXT, "vocab_size": vocab_size, "width": width,
            "heads": width // 32, "layers": layers, "mlp_ratio": 2.0, "hf_tokenizer_name": ".",
        },
    }  # fmt: skip


def normalised(images: NDArray[np.uint8]) -> Tensor:
    """(rows, H, W, 3) bytes -> (rows, 3, H, W) float32, as open_clip's preprocessing gives."""
    pixels = torch.from_numpy(images).permute(0, 3, 1, 2).float() / 255
    mean, std = (torch.tensor(values).view(1, 3, 1, 1) for values in (MEAN, STD))
    return (pixels - mean) / std


def attend_in_float32(
    block: Any,
    q_x: Tensor,
    k_x: Tensor | None = None,
    v_x: Tensor | None = None,
    attn_mask: Tensor | None = None,
) -> Tensor:
    """A block's self-attention in float32 inside autocast; faster to differentiate on CPUs."""
    attention = block.attn
    rows, length, width = q_x.shape
    mixed = nn.functional.linear(q_x, attention.in_proj_weight, attention.in_proj_bias)
    query, key, value = (
        part.view(rows, length, attention.num_heads, -1).transpose(1, 2).float()
        for part in mixed.chunk(3, -1)
    )
    with torch.autocast("cpu", enabled=False):
        seen = nn.functional.scaled_dot_product_attention(
            query, key, value, is_causal=attn_mask is not None
        )
    joined: Tensor = attention.out_proj(seen.transpose(1, 2).reshape(rows, length, width))
    return joined


def build_model(config: dict[str, Any]) -> Any:
    """open_clip's CLIP whose blocks attend in float32; its text tower is causal."""
    model = open_clip.CLIP(**config)
    for tower in (model.visual.transformer, model.transformer):
        for block in tower.resblocks:
            block.attention = partial(attend_in_float32, block)
    return model


def encode_texts(model: Any, ids: Tensor) -> Tensor:
    """As the model's own encode_text, but only as many positions as the longest text has."""
    length = ids.shape[1]
    x = model.token_embedding(ids) + model.positional_embedding[:length]
    x = model.ln_final(model.transformer(x, attn_mask=model.attn_mask[:length, :length]))
    pooled: Tensor = x[torch.arange(len(ids)), ids.argmax(-1)] @ model.text_projection
    return pooled


def batch_losses(
    model: Any, readout: SceneReadout, images: NDArray[np.uint8], pairs: Sequence[Pair],
    ids: Sequence[Sequence[int]],
) -> tuple[Tensor, Tensor, float]:  # fmt: skip
    """(contrastive loss, loss of the read-outs, share of images matched with their own text)."""
    with torch.autocast("cpu", torch.bfloat16):
        image = nn.functional.normalize(model.encode_image(normalised(images)).float(), dim=-1)
        text = nn.functional.normalize(encode_texts(model, pad_right(ids, 0)).float(), dim=-1)
    with torch.no_grad():
        model.logit_scale.clamp_(max=_HIGHEST_SCALE)
    logits = model.logit_scale.exp() * image @ text.T
    own = torch.arange(len(pairs))
    contrast = (
        nn.functional.cross_entropy(logits, own) + nn.functional.cross_entropy(logits.T, own)
    ) / 2
    labels = scene_labels([pair.scene for pair in pairs])
    whole = torch.tensor([index for index, pair in enumerate(pairs) if pair.whole])
    spread = image.shape[1] ** 0.5
    guide = readout.loss(image * spread, labels)
    if len(whole):
        guide = (guide + readout.loss(text[whole] * spread, labels[whole])) / 2
    return contrast, guide, (logits.argmax(1) == own).float().mean().item()


def train(arguments: argparse.Namespace) -> None:
    """Train and write the checkpoint folder; prints losses as it goes."""
    torch.set_num_threads(arguments.threads)
    torch.manual_seed(arguments.seed)
    tokenizer = demo_tokenizer()
    config = model_config(
        (len(tokenizer) + 63) // 64 * 64, arguments.width, arguments.layers, arguments.embed_dim
    )
    model = build_model(config).train()
    readout = SceneReadout(arguments.embed_dim, cells_apart=False)
    print(f"parameters {sum(p.numel() for p in model.parameters()) / 1e6:.2f} M", flush=True)
    pool = PairPool(f"clip/{arguments.seed}", arguments.pool)
    encoder, end = tokenizer.backend_tokenizer, tokenizer.eos_token_id
    parameters = [*model.named_parameters(), *readout.named_parameters()]
    optimiser = MixedOptimiser(parameters, arguments.rate, arguments.steps, 0.4)
    log = ProgressLog("clip")
    for step in range(arguments.steps):
        images, pairs = pool.draw(arguments.rows)
        ids = [[*encoder.encode(pair.text).ids[: CONTEXT - 1], end] for pair in pairs]
        contrast, guide, matched = batch_losses(model, readout, images, pairs, ids)
        weight = arguments.guidance * (1 - step / arguments.steps)
        (contrast + weight * guide).backward()
        optimiser.step()
        values = {"contrast": contrast.item(), "read": guide.item(), "matched": matched}
        if log.add(step, arguments.steps, values) and arguments.out:
            save(model, config, ending_tokenizer(tokenizer), arguments.out)


def save(
    model: Any, config: dict[str, Any], tokenizer: PreTrainedTokenizerFast, folder: Path
) -> None:
    """Write the folder that open_clip loads as "local-dir:…"; weights as float16."""
    folder.mkdir(parents=True, exist_ok=True)
    preprocess = {
        "mean": list(MEAN), "std": list(STD), "interpolation": "bicubic", "resize_mode": "squash"
    }  # fmt: skip
    described = {"model_cfg": config, "preprocess_cfg": preprocess}
    (folder / "open_clip_config.json").write_text(json.dumps(described, indent=2) + "\n")
    state = {name: value.detach().half() for name, value in model.state_dict().items()}
    save_file(state, folder / "open_clip_model.safetensors")
    tokenizer.save_pretrained(folder)


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--steps", type=int, default=800)
    parser.add_argument("--rows", type=int, default=128)
    parser.add_argument("--pool", type=int, default=12_000, help="rendered training scenes")
    parser.add_argument("--width", type=int, default=128)
    parser.add_argument("--layers", type=int, default=3)
    parser.add_argument("--embed-dim", type=int, default=192)
    parser.add_argument("--rate", type=float, default=1.5e-3)
    parser.add_argument("--guidance", type=float, default=0.3, help="weight of the read-outs")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--seed", type=int, default=1)
    train(parser.parse_args())


if __name__ == "__main__":
    main()
