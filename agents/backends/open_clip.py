"""Any CLIP that open_clip can load: image and text embeddings.

The same image or text gives the same bytes whatever else is in the batch: every forward pass has
`rows` rows, copies filling up the last one (see `fixed_shapes`).
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import open_clip
import torch

from agents.backends.contract import FloatVector, ImageFile
from agents.backends.control_tokens import ControlTokens, control_tokens_of
from agents.backends.identity import package_versions
from agents.backends.images import read_image
from shared.errors import ConfigurationError, ItemError

DEFAULT_ROWS = {"cpu": 16, "cuda": 256}
_LOCAL = "local-dir:"


class ClipModel:
    """An `EmbeddingModel` on open_clip. Not thread-safe."""

    def __init__(
        self,
        model: Any,
        preprocess: Any,
        tokenizer: Any,
        *,
        device: str,
        rows: int,
        identity: dict[str, str],
    ) -> None:
        """Prefer `load`."""
        self._model = model
        self._preprocess = preprocess
        self._tokenizer = tokenizer
        self._controls = ControlTokens(_control_tokens(tokenizer))
        self._device = device
        self._rows = rows
        self._identity = identity

    def describe(self) -> dict[str, str]:
        """Backend, checkpoint, revision (the pretrained tag), digest of the weights, versions."""
        return dict(self._identity)

    def embed_images(self, images: Sequence[ImageFile]) -> list[FloatVector | ItemError]:
        """Unit-length float32 vectors; an image that can't be read is an error in its place."""
        embedded: list[FloatVector | ItemError] = []
        # Block by block, so that the pixels of a large batch are never in memory at once.
        for start in range(0, len(images), self._rows):
            prepared = [self._pixels(image) for image in images[start : start + self._rows]]
            pixels = [item for item in prepared if isinstance(item, torch.Tensor)]
            vectors = iter(self._embed(pixels, self._model.encode_image))
            embedded += [
                item if isinstance(item, ItemError) else next(vectors) for item in prepared
            ]
        return embedded

    def embed_texts(self, texts: Sequence[str]) -> list[FloatVector | ItemError]:
        """Unit-length float32 vectors; texts are cut to the model's context."""
        if not texts:
            return []
        tokens = self._tokenizer([self._inert(text) for text in texts])
        return self._embed(list(tokens), self._model.encode_text)

    def _inert(self, text: str) -> str:
        """`text` without control tokens, also after the tokenizer has cleaned it (entities)."""
        cleaned = getattr(self._tokenizer, "clean_fn", str)(text)
        if self._controls.inert(cleaned) == cleaned:
            return text
        return self._inert(self._controls.inert(cleaned))

    def _pixels(self, image: ImageFile) -> torch.Tensor | ItemError:
        try:
            pixels: torch.Tensor = self._preprocess(read_image(image))
        except ItemError as error:
            return error
        return pixels

    def _embed(self, inputs: Sequence[torch.Tensor], encode: Any) -> list[FloatVector | ItemError]:
        embedded: list[FloatVector | ItemError] = []
        for start in range(0, len(inputs), self._rows):
            block = list(inputs[start : start + self._rows])
            filled = block + [block[0]] * (self._rows - len(block))
            with torch.inference_mode():
                vectors = encode(torch.stack(filled).to(self._device), normalize=True)
            for vector in vectors[: len(block)].float().cpu().numpy():
                finite = bool(np.isfinite(vector).all())
                embedded.append(vector.copy() if finite else ItemError("embedding is not finite"))
        return embedded


def load(
    checkpoint: str,
    revision: str = "",
    *,
    precision: str = "fp32",
    device: str = "auto",
    rows: int = 0,
    threads: int = 0,
) -> ClipModel:
    """A CLIP by open_clip's name ("ViT-B-32"), "hf-hub:…", or the path of a folder.

    A folder holds open_clip_config.json (`model_cfg`, with `hf_tokenizer_name` in its `text_cfg`,
    and `preprocess_cfg`), open_clip_model.safetensors and the tokenizer's files.

    Args:
        revision: the pretrained tag ("laion2b_s34b_b79k"), for models named without a schema.
        precision: open_clip's: "fp32", "fp16", "bf16".
        device: "cpu", "cuda"; "auto" is the GPU where there is one.
        rows: fixed rows of every forward pass; 0 = 16 on a CPU, 256 on a GPU.
        threads: CPU threads; 0 leaves the process's setting.
    Raises: ConfigurationError: it can't be loaded, or has no weights.
    """
    if threads:
        torch.set_num_threads(threads)
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    folder = Path(checkpoint.removeprefix(_LOCAL))
    name = f"{_LOCAL}{folder}" if folder.is_dir() else checkpoint
    try:
        model, _, preprocess = open_clip.create_model_and_transforms(
            name,
            pretrained=revision or None,
            precision=precision,
            device=device,
            require_pretrained=True,
            weights_only=True,
        )
        tokenizer = open_clip.get_tokenizer(name)
    except Exception as error:  # open_clip raises RuntimeError, OSError, ValueError, hub errors, …
        raise ConfigurationError(
            f"CLIP {checkpoint!r} (pretrained {revision!r}) can't be loaded by open_clip: {error}"
        ) from error
    identity = {
        "backend": "open_clip",
        "checkpoint": folder.name if folder.is_dir() else checkpoint,
        "revision": revision,
        "digest": _weights_digest(model),
        "precision": precision,
        "preprocess": repr(open_clip.get_model_preprocess_cfg(model)),
        "versions": package_versions(("torch", "open_clip_torch")),
    }
    return ClipModel(
        model.eval(),
        preprocess,
        tokenizer,
        device=device,
        rows=rows or DEFAULT_ROWS[device.partition(":")[0]],
        identity=identity,
    )


def _control_tokens(tokenizer: Any) -> set[str]:
    """Of a transformers tokenizer inside, or of open_clip's own."""
    inner = getattr(tokenizer, "tokenizer", None)
    if inner is not None:
        return control_tokens_of(inner)
    return {tokenizer.decoder[token_id] for token_id in tokenizer.all_special_ids}


def _weights_digest(model: Any) -> str:
    """sha256 hex over names and values of all weights, in order of name."""
    digest = hashlib.sha256()
    for name, tensor in sorted(model.state_dict().items()):
        digest.update(name.encode())
        digest.update(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy())
    return digest.hexdigest()
