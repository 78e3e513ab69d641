"""Loads any chat model of the Hugging Face library, on CPU or a GPU: text only, or with images."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
import transformers

from agents.backends.adaptive_model import AdaptiveModel
from agents.backends.chat_model import ChatModel
from agents.backends.identity import folder_digest, package_versions
from shared.errors import ConfigurationError

DEFAULT_ROWS = {"cpu": 16, "cuda": 64}


def load(
    checkpoint: str,
    revision: str = "",
    *,
    dtype: str = "auto",
    device: str = "auto",
    rows: int = 0,
    max_tiles: int = 1,
    adaptive_tiles: int = 0,
    undecided: Sequence[float] = (0.2, 0.8),
    cache_mb: int = 512,
    threads: int = 0,
    trust_remote_code: bool = False,
) -> ChatModel | AdaptiveModel:
    """A chat model by hub name or folder; it reads images when its configuration has a vision part.

    Args:
        dtype: "float32", "bfloat16", "float16"; "auto" is float32 on a CPU, bfloat16 on a GPU.
        device: "cpu", "cuda", "cuda:1"; "auto" is the GPU where there is one.
        rows: fixed rows of every forward pass; 0 = 16 on a CPU, 64 on a GPU.
        max_tiles: tiles an image is cut into at most, for models that cut tiles.
        adaptive_tiles: where P(yes) of a question about images lies within `undecided`, it is asked
            again with so many tiles; 0 = never.
        cache_mb: memory for the features of images seen before.
        threads: CPU threads; 0 leaves the process's setting.
    Raises: ConfigurationError: it can't be loaded.
    """
    transformers.utils.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()
    if threads:
        torch.set_num_threads(threads)
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    if dtype == "auto":
        dtype = "float32" if device == "cpu" else "bfloat16"
    source: dict[str, Any] = {"trust_remote_code": trust_remote_code}
    if revision:
        source["revision"] = revision
    try:
        config = transformers.AutoConfig.from_pretrained(checkpoint, **source)
        sees = getattr(config, "vision_config", None) is not None
        loader = (
            transformers.AutoModelForImageTextToText if sees else transformers.AutoModelForCausalLM
        )
        model = loader.from_pretrained(
            checkpoint, dtype=getattr(torch, dtype), use_safetensors=True, **source
        )
        processor = (
            transformers.AutoProcessor.from_pretrained(checkpoint, **source) if sees else None
        )
        tokenizer = (
            processor.tokenizer
            if processor is not None
            else transformers.AutoTokenizer.from_pretrained(checkpoint, **source)
        )
    except (OSError, ValueError, AttributeError, ImportError) as error:
        raise ConfigurationError(
            f"checkpoint {checkpoint!r} can't be loaded by transformers: {error}"
        ) from error
    folder = Path(checkpoint)
    identity = {
        "backend": "transformers",
        "checkpoint": folder.name if folder.is_dir() else checkpoint,
        "revision": str(getattr(config, "_commit_hash", None) or revision),
        "digest": folder_digest(folder) if folder.is_dir() else "",
        "dtype": dtype,
        "max_tiles": str(max_tiles if sees else 0),
        "versions": package_versions(("torch", "transformers", "xgrammar")),
    }
    chat_model = ChatModel(
        model.eval().to(device),
        tokenizer,
        processor,
        rows=rows or DEFAULT_ROWS[device.partition(":")[0]],
        max_tiles=max_tiles,
        cache_mb=cache_mb,
        identity=identity,
    )
    return AdaptiveModel(chat_model, adaptive_tiles, undecided) if adaptive_tiles else chat_model
