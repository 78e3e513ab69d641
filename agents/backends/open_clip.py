"""Any CLIP that open_clip can load: image and text embeddings.

The same image or text gives the same bytes whatever else is in the batch: every forward pass has
`rows` rows, copies filling up the last one (see `fixed_shapes`).

Images are decoded, resized and normalised by threads (Pillow and torch release the interpreter
while they do), two blocks ahead of the model and no further: what is held in memory is three blocks
of pixels, whatever the number of images.
"""

from __future__ import annotations

import hashlib
import itertools
from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
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
_SCHEMES = (_LOCAL, "hf-hub:")
_BLOCKS_AHEAD = 2


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
        readers: int = 0,
    ) -> None:
        """Prefer `load`.

        Args:
            readers: images decoded at the same time; 0 = as many as torch has threads.
        """
        self._model = model
        self._preprocess = preprocess
        self._tokenizer = tokenizer
        self._controls = ControlTokens(_control_tokens(tokenizer))
        self.device = device
        self._rows = rows
        self._identity = identity
        self._pixel_type = next(model.parameters()).dtype
        self._readers = ThreadPoolExecutor(readers or torch.get_num_threads(), "read-images")

    def describe(self) -> dict[str, str]:
        """Backend, checkpoint, revision (the pretrained tag), digest of the weights, versions."""
        return dict(self._identity)

    def embed_images(self, images: Sequence[ImageFile]) -> list[FloatVector | ItemError]:
        """Unit-length float32 vectors; an image that can't be read is an error in its place."""
        embedded: list[FloatVector | ItemError] = []
        for prepared in self._blocks(images):
            pixels = [item for item in prepared if isinstance(item, torch.Tensor)]
            vectors = iter(self._embed(pixels, self._model.encode_image))
            embedded += [
                item if isinstance(item, ItemError) else next(vectors) for item in prepared
            ]
        return embedded

    def _blocks(self, images: Sequence[ImageFile]) -> Iterator[list[torch.Tensor | ItemError]]:
        """The pixels of `rows` images at a time, while those of the next are being prepared."""
        ahead: deque[Future[torch.Tensor | ItemError]] = deque()
        remaining = iter(images)
        for _ in range(0, len(images), self._rows):
            room = (1 + _BLOCKS_AHEAD) * self._rows - len(ahead)
            for image in itertools.islice(remaining, room):
                ahead.append(self._readers.submit(self._pixels, image))
            yield [ahead.popleft().result() for _ in range(min(self._rows, len(ahead)))]

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
            pixels: torch.Tensor = self._preprocess(read_image(image)).to(self._pixel_type)
        except ItemError as error:
            return error
        return pixels

    def _embed(self, inputs: Sequence[torch.Tensor], encode: Any) -> list[FloatVector | ItemError]:
        embedded: list[FloatVector | ItemError] = []
        for start in range(0, len(inputs), self._rows):
            some = list(inputs[start : start + self._rows])
            filled = some + [some[0]] * (self._rows - len(some))
            with torch.inference_mode():
                block = torch.stack(filled)
                if self.device.startswith("cuda"):
                    block = block.pin_memory().to(self.device, non_blocking=True)
                vectors = encode(block, normalize=True)
            for vector in vectors[: len(some)].float().cpu().numpy():
                finite = bool(np.isfinite(vector).all())
                embedded.append(vector.copy() if finite else ItemError("embedding is not finite"))
        return embedded


def load(
    checkpoint: str,
    revision: str = "",
    *,
    precision: str = "auto",
    device: str = "auto",
    rows: int = 0,
    threads: int = 0,
    compile_model: bool = False,
) -> ClipModel:
    """A CLIP by open_clip's name ("ViT-B-32", or "ViT-B-32/laion2b_s34b_b79k" with its pretrained
    tag), "hf-hub:…", or the path of a folder.

    A folder holds open_clip_config.json (`model_cfg`, with `hf_tokenizer_name` in its `text_cfg`,
    and `preprocess_cfg`), open_clip_model.safetensors and the tokenizer's files.

    Args:
        revision: the pretrained tag, where the name doesn't hold it.
        precision: open_clip's: "fp32", "fp16", "bf16"; "auto" is fp16 on a GPU, else fp32.
        device: "cpu", "cuda"; "auto" is the GPU where there is one.
        rows: fixed rows of every forward pass; 0 = 16 on a CPU, 256 on a GPU.
        threads: CPU threads, of the model and of reading images; 0 leaves the process's setting.
        compile_model: let torch compile both towers (a minute at the start; needs a C++ compiler
            on a CPU).
    Raises: ConfigurationError: it can't be loaded, or has no weights.
    """
    if threads:
        torch.set_num_threads(threads)
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    if precision == "auto":
        precision = "fp32" if device == "cpu" else "fp16"
    folder = Path(checkpoint.removeprefix(_LOCAL))
    name, tag = _name_and_tag(checkpoint, folder, revision)
    try:
        model, _, preprocess = open_clip.create_model_and_transforms(
            name,
            pretrained=tag or None,
            precision=precision,
            device=device,
            require_pretrained=True,
            weights_only=True,
        )
        tokenizer = open_clip.get_tokenizer(name)
    except Exception as error:  # open_clip raises RuntimeError, OSError, ValueError, hub errors, …
        raise ConfigurationError(
            f"CLIP {name!r} (pretrained {tag!r}) can't be loaded by open_clip: {error}"
        ) from error
    identity = {
        "backend": "open_clip",
        "checkpoint": folder.name if folder.is_dir() else name,
        "revision": tag,
        "digest": _weights_digest(model),
        "precision": f"{precision}, compiled" if compile_model else precision,
        "preprocess": repr(open_clip.get_model_preprocess_cfg(model)),
        "versions": package_versions(("torch", "open_clip_torch")),
    }
    model = model.eval()
    if device.startswith("cuda"):
        model = model.to(memory_format=torch.channels_last)  # convolutions on GPUs prefer it
    if compile_model:
        model.encode_image = torch.compile(model.encode_image, dynamic=False)
        model.encode_text = torch.compile(model.encode_text, dynamic=False)
    return ClipModel(
        model,
        preprocess,
        tokenizer,
        device=device,
        rows=rows or DEFAULT_ROWS[device.partition(":")[0]],
        identity=identity,
    )


def _name_and_tag(checkpoint: str, folder: Path, revision: str) -> tuple[str, str]:
    """open_clip's name of the model, and the tag of its weights.

    Raises: ConfigurationError: two different tags.
    """
    if folder.is_dir():
        return f"{_LOCAL}{folder}", revision
    if checkpoint.startswith(_SCHEMES) or "/" not in checkpoint:
        return checkpoint, revision
    name, _, tag = checkpoint.partition("/")
    if revision and revision != tag:
        raise ConfigurationError(
            f"CLIP {checkpoint!r} names the weights {tag!r}, its revision {revision!r}: give one"
        )
    return name, tag


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
