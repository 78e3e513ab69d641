"""The demo's vision-language model: how it is built, fed in training, and saved."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from transformers import (
    GenerationConfig,
    GotOcr2ImageProcessor,
    InternVLConfig,
    InternVLForConditionalGeneration,
    InternVLProcessor,
    InternVLVisionConfig,
    PreTrainedTokenizerFast,
    Qwen2Config,
)
from transformers.models.internvl.video_processing_internvl import InternVLVideoProcessor

from agents.training.optimisation import IGNORED, pad_right
from agents.training.vision_examples import IMAGE_TOKENS, Example
from agents.training.vocabulary import CHAT_TEMPLATE, IMAGE
from shared.demo_world.render import IMAGE_SIZE

PATCH: Final = 24
MEAN: Final = (0.5, 0.5, 0.5)
STD: Final = (0.25, 0.25, 0.25)
_OPENING, _PADDING = 0, -1


def build_model(
    tokenizer: PreTrainedTokenizerFast, width: int, layers: int, vision_width: int,
    vision_layers: int,
) -> InternVLForConditionalGeneration:  # fmt: skip
    """InternVL whose nine image tokens are the nine cells of a scene, heads of 32 throughout."""
    vision = InternVLVisionConfig(
        hidden_size=vision_width, intermediate_size=2 * vision_width,
        num_hidden_layers=vision_layers, num_attention_heads=vision_width // 32,
        image_size=(IMAGE_SIZE, IMAGE_SIZE), patch_size=(PATCH, PATCH), attention_bias=True,
        layer_scale_init_value=1.0,
    )  # fmt: skip
    text = Qwen2Config(
        vocab_size=(len(tokenizer) + 63) // 64 * 64, hidden_size=width,
        intermediate_size=width * 3, num_hidden_layers=layers, num_attention_heads=width // 32,
        num_key_value_heads=width // 32, max_position_embeddings=2048, tie_word_embeddings=False,
        rope_parameters={"rope_type": "default", "rope_theta": 10_000.0}, initializer_range=0.05,
        pad_token_id=tokenizer.pad_token_id, eos_token_id=tokenizer.eos_token_id,
        bos_token_id=None,
    )  # fmt: skip
    config = InternVLConfig(
        vision_config=vision.to_dict(), text_config=text.to_dict(),
        image_token_id=tokenizer.convert_tokens_to_ids(IMAGE), image_seq_length=IMAGE_TOKENS,
        tie_word_embeddings=False,
    )  # fmt: skip
    model = InternVLForConditionalGeneration(config)
    model.set_attn_implementation("float32_in_autocast")
    return model


def build_processor(tokenizer: PreTrainedTokenizerFast) -> InternVLProcessor:
    """One tile per image; an image of 144 x 144 is taken as it is."""
    size = {"height": IMAGE_SIZE, "width": IMAGE_SIZE}
    colours: dict[str, Any] = {"image_mean": list(MEAN), "image_std": list(STD)}
    return InternVLProcessor(
        GotOcr2ImageProcessor(
            size=size, crop_to_patches=False, min_patches=1, max_patches=1, **colours
        ),
        tokenizer,
        InternVLVideoProcessor(size=size, **colours),
        image_seq_length=IMAGE_TOKENS,
        chat_template=CHAT_TEMPLATE,
    )


def save(
    model: InternVLForConditionalGeneration, tokenizer: PreTrainedTokenizerFast, folder: Path
) -> None:
    """Write the folder that transformers and vLLM load; weights as bfloat16."""
    model.generation_config = GenerationConfig(
        eos_token_id=tokenizer.eos_token_id, pad_token_id=tokenizer.pad_token_id
    )
    state = {name: value.to(torch.bfloat16) for name, value in model.state_dict().items()}
    model.save_pretrained(folder, state_dict=state)
    build_processor(tokenizer).save_pretrained(folder)


def pixel_values(images: list[NDArray[np.uint8]]) -> Tensor:
    """(images, 3, 144, 144) float32, as the processor gives."""
    pixels = torch.from_numpy(np.stack(images)).permute(0, 3, 1, 2).float() / 255
    mean, std = (torch.tensor(values).view(1, 3, 1, 1) for values in (MEAN, STD))
    return (pixels - mean) / std


def image_features(model: InternVLForConditionalGeneration, pixels: Tensor) -> Tensor:
    """(images, 9, width): the tokens that the language model sees for each image."""
    features: Tensor = model.model.get_image_features(
        pixel_values=pixels, vision_feature_layer=-1, vision_feature_select_strategy="default",
        return_dict=True,
    ).pooler_output  # fmt: skip
    return features


@dataclass
class Batch:
    """Examples as tensors, each (rows, length): a row is an opening and turns that share it.

    Attributes:
        labels: the token to predict at each position, IGNORED elsewhere.
        skills: the skill whose answer the label belongs to.
        positions: counted on from the opening by each turn, as if it were alone.
        mask: (rows, 1, length, length) to add to attention scores: a turn sees the opening and
            itself, nothing later.
    """

    inputs: Tensor
    labels: Tensor
    skills: Tensor
    positions: Tensor
    mask: Tensor


def collate(examples: list[Example]) -> Batch:
    """Lay out each example's turns one after another behind their common opening."""
    # Columns: inputs, labels, skills, positions, and the turn each position belongs to.
    columns: tuple[list[list[int]], ...] = ([], [], [], [], [])
    for example in examples:
        opening = len(example.opening)
        row = (list(example.opening), [IGNORED] * opening, [IGNORED] * opening,
               list(range(opening)), [_OPENING] * opening)  # fmt: skip
        for number, turn in enumerate(example.turns):
            unlearnt, learnt = len(turn.prompt) - 1, len(turn.answer)
            row[0].extend(turn.prompt + turn.answer[:-1])
            row[1].extend([IGNORED] * unlearnt + turn.answer)
            row[2].extend([IGNORED] * unlearnt + [turn.skill] * learnt)
            row[3].extend(range(opening, opening + unlearnt + learnt))
            row[4].extend([number + 1] * (unlearnt + learnt))
        for column, part in zip(columns, row, strict=True):
            column.append(part)
    inputs, labels, skills, positions, turns = columns
    owners = pad_right(turns, _PADDING)
    length = owners.shape[1]
    own = owners[:, :, None] == owners[:, None, :]
    seen = (own | (owners == _OPENING)[:, None, :]) & torch.ones(length, length).tril().bool()
    mask = torch.zeros(seen.shape).masked_fill(~seen, float("-inf"))[:, None]
    return Batch(
        pad_right(inputs, 0), pad_right(labels, IGNORED), pad_right(skills, IGNORED),
        pad_right(positions, 0), mask,
    )  # fmt: skip


def hidden_states(
    model: InternVLForConditionalGeneration, batch: Batch, features: Tensor
) -> tuple[Tensor, ...]:
    """Embeddings, then the states after each block, each (rows, length, width).

    The last are after the final norm. `features` (images, 9, width) fill the image tokens in order.
    """
    embedded = model.get_input_embeddings()(batch.inputs)
    places = (batch.inputs == model.config.image_token_id)[:, :, None]
    embedded = embedded.masked_scatter(places, features.to(embedded.dtype))
    outputs = model.model.language_model(
        inputs_embeds=embedded, attention_mask={"full_attention": batch.mask},
        position_ids=batch.positions, output_hidden_states=True, use_cache=False,
    )  # fmt: skip
    states: tuple[Tensor, ...] = outputs.hidden_states
    return states
