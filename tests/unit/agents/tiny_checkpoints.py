"""Writes tiny randomly initialised checkpoints in the layouts the shipped ones have."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import open_clip
import torch
from safetensors.torch import save_file
from tokenizers import (
    AddedToken,
    Tokenizer,
    decoders,
    models,
    pre_tokenizers,
    processors,
    trainers,
)
from transformers import (
    GenerationConfig,
    GotOcr2ImageProcessor,
    InternVLConfig,
    InternVLForConditionalGeneration,
    InternVLProcessor,
    InternVLVisionConfig,
    PreTrainedTokenizerFast,
    Qwen2Config,
    Qwen2ForCausalLM,
)
from transformers.models.internvl.video_processing_internvl import InternVLVideoProcessor

TILE_PX = 32
PATCH_PX = 8
IMAGE_TOKENS = (TILE_PX // PATCH_PX // 2) ** 2
CHAT_TEMPLATE = (
    "{% for m in messages %}{{ '<|im_start|>' + m['role'] + '\n' }}"
    "{% if m['content'] is string %}{{ m['content'] }}{% else %}"
    "{% for c in m['content'] %}"
    "{% if c['type'] == 'image' %}{{ '<IMG_CONTEXT>\n' }}"
    "{% elif c['type'] == 'text' %}{{ c['text'] }}{% endif %}"
    "{% endfor %}{% endif %}{{ '<|im_end|>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
SPECIALS = (
    "<|endoftext|>",
    "<|im_start|>",
    "<|im_end|>",
    "<img>",
    "</img>",
    "<IMG_CONTEXT>",
    "<video>",
)
WORDS = ("Yes", "No", "Ġred", "Ġdress", "ĠIs", "Ġthe", '{"', '":', 'Ġ"', '",', '"}', "Ġ[", "}]")


def byte_level_tokenizer(texts: Sequence[str] = ()) -> PreTrainedTokenizerFast:
    """All 256 bytes, a few whole words reached by merges, and the chat's special tokens.

    With `texts` the merges are learned from them, so that their words are a token or two each.
    """
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocabulary = {symbol: index for index, symbol in enumerate(alphabet)}
    merges: list[tuple[str, str]] = []
    for word in WORDS:
        prefix = word[0]
        for symbol in word[1:]:
            if prefix + symbol not in vocabulary:
                vocabulary[prefix + symbol] = len(vocabulary)
                merges.append((prefix, symbol))
            prefix += symbol
    tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=merges))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    if texts:
        trainer = trainers.BpeTrainer(
            vocab_size=2000, show_progress=False, initial_alphabet=alphabet
        )
        tokenizer.train_from_iterator(texts, trainer)
    tokenizer.add_special_tokens([AddedToken(s, special=True, normalized=False) for s in SPECIALS])
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        eos_token="<|im_end|>",
        pad_token="<|endoftext|>",
        padding_side="left",
        model_max_length=2048,
        chat_template=CHAT_TEMPLATE,
        extra_special_tokens={
            "start_image_token": "<img>",
            "end_image_token": "</img>",
            "context_image_token": "<IMG_CONTEXT>",
            "video_token": "<video>",
        },
    )


def _text_config(tokenizer: PreTrainedTokenizerFast, context_length: int = 2048) -> Qwen2Config:
    return Qwen2Config(
        vocab_size=(len(tokenizer) + 63) // 64 * 64,
        hidden_size=64,
        intermediate_size=96,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=1,
        max_position_embeddings=context_length,
        tie_word_embeddings=True,
        initializer_range=0.3,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
        bos_token_id=None,
    )


def _generation_config(tokenizer: PreTrainedTokenizerFast) -> GenerationConfig:
    return GenerationConfig(
        eos_token_id=tokenizer.eos_token_id, pad_token_id=tokenizer.pad_token_id
    )


def write_text_checkpoint(folder: Path) -> Path:
    """A Qwen2 chat model."""
    torch.manual_seed(0)
    tokenizer = byte_level_tokenizer()
    model = Qwen2ForCausalLM(_text_config(tokenizer)).eval()
    model.generation_config = _generation_config(tokenizer)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def write_vision_checkpoint(
    folder: Path,
    tile_px: int = TILE_PX,
    patch_px: int = PATCH_PX,
    context_length: int = 2048,
    texts: Sequence[str] = (),
) -> Path:
    """An InternVL chat model in the layout of OpenGVLab/InternVL3-*-hf.

    With tiles of 448 pixels and patches of 14 an image takes 256 tokens, as it does there.

    Args:
        texts: what its tokenizer learns its words from; none = a few words, else bytes.
    """
    torch.manual_seed(0)
    image_tokens = (tile_px // patch_px // 2) ** 2
    tokenizer = byte_level_tokenizer(texts)
    vision = InternVLVisionConfig(
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=2,
        image_size=(tile_px, tile_px),
        patch_size=(patch_px, patch_px),
        attention_bias=True,
        initializer_range=0.3,
    )
    config = InternVLConfig(
        vision_config=vision.to_dict(),
        text_config=_text_config(tokenizer, context_length).to_dict(),
        image_token_id=tokenizer.convert_tokens_to_ids("<IMG_CONTEXT>"),
        image_seq_length=image_tokens,
        tie_word_embeddings=True,
    )
    model = InternVLForConditionalGeneration(config).eval()
    model.generation_config = _generation_config(tokenizer)
    model.save_pretrained(folder)
    size = {"height": tile_px, "width": tile_px}
    mean_and_std = {"image_mean": [0.485, 0.456, 0.406], "image_std": [0.229, 0.224, 0.225]}
    InternVLProcessor(
        GotOcr2ImageProcessor(
            size=size, crop_to_patches=False, min_patches=1, max_patches=4, **mean_and_std
        ),
        tokenizer,
        InternVLVideoProcessor(size=size, **mean_and_std),
        image_seq_length=image_tokens,
        chat_template=CHAT_TEMPLATE,
    ).save_pretrained(folder)
    return folder


def write_clip_checkpoint(folder: Path, seed: int = 0) -> Path:
    """An open_clip CLIP with its own word tokenizer, loaded as "local-dir:{folder}"."""
    torch.manual_seed(seed)
    folder.mkdir(parents=True, exist_ok=True)
    words = ["[PAD]", "[UNK]", "a", "red", "blue", "square", "circle", "and", "."]
    vocabulary = {word: index for index, word in enumerate([*words, "[EOT]"])}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="$A [EOT]", special_tokens=[("[EOT]", vocabulary["[EOT]"])]
    )
    PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token="[PAD]", unk_token="[UNK]", eos_token="[EOT]"
    ).save_pretrained(folder)
    model_cfg = {
        "embed_dim": 16,
        "vision_cfg": {
            "image_size": TILE_PX,
            "layers": 2,
            "width": 32,
            "head_width": 16,
            "patch_size": PATCH_PX,
        },
        "text_cfg": {
            "context_length": 16,
            "vocab_size": len(vocabulary),
            "width": 32,
            "heads": 2,
            "layers": 2,
            "hf_tokenizer_name": ".",
        },
    }
    preprocess_cfg = {
        "mean": [0.5, 0.5, 0.5],
        "std": [0.5, 0.5, 0.5],
        "interpolation": "bicubic",
        "resize_mode": "squash",
    }
    (folder / "open_clip_config.json").write_text(
        json.dumps({"model_cfg": model_cfg, "preprocess_cfg": preprocess_cfg})
    )
    model = open_clip.CLIP(**model_cfg)
    save_file(model.state_dict(), folder / "open_clip_model.safetensors")
    return folder
