"""Stand-in models that answer instantly from a hash: for measuring overhead and for tests.

They see nothing and know nothing. Profiles name them by dotted path, as users name engines of their
own: "agents.backends.zero_cost:language_model" and "agents.backends.zero_cost:embedding_model".
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from agents.backends.contract import (
    ChoiceRequest,
    FloatVector,
    GenerationRequest,
    ImageFile,
    Prompt,
)
from shared.errors import ItemError

_WORDS = ("red", "blue", "round", "small", "dress", "dog", "table", "striped")


class ZeroCostLanguageModel:
    """A `LanguageModel`: valid JSON for our schemas, probabilities by hash of the prompt."""

    def __init__(self, failing: str = "") -> None:
        """`failing`: requests whose text or image path contains it fail alone; empty = none."""
        self._failing = failing

    def generate(self, requests: Sequence[GenerationRequest]) -> list[str | ItemError]:
        return [self._generate(request) for request in requests]

    def choose(self, requests: Sequence[ChoiceRequest]) -> list[tuple[float, ...] | ItemError]:
        return [self._choose(request) for request in requests]

    def describe(self) -> dict[str, str]:
        return {"backend": "zero_cost", "checkpoint": "hash", "version": "2"}

    def _generate(self, request: GenerationRequest) -> str | ItemError:
        seed = _hash_of_prompt(request.prompt)
        if self._fails(request.prompt):
            return ItemError(f"asked to fail on {self._failing!r}")
        if request.json_schema is None:
            return _phrase(seed)
        return json.dumps(_instance(request.json_schema, seed))

    def _choose(self, request: ChoiceRequest) -> tuple[float, ...] | ItemError:
        if self._fails(request.prompt):
            return ItemError(f"asked to fail on {self._failing!r}")
        digest, choices = _hash(_shown_to_model(request.prompt)), len(request.choices)
        probabilities: list[float] = []
        for first in range(0, choices * request.count, choices):
            weights = [1 + digest[(first + place) % len(digest)] for place in range(choices)]
            probabilities += [weight / sum(weights) for weight in weights]
        return tuple(probabilities)

    def _fails(self, prompt: Prompt) -> bool:
        if not self._failing:
            return False
        shown = [prompt.text, *(str(image.path) for image in prompt.images)]
        return any(self._failing in text for text in shown)


class ZeroCostEmbeddingModel:
    """An `EmbeddingModel`: unit vectors by hash of the text or of the image's content hash."""

    def __init__(self, dimensions: int = 64, failing: str = "") -> None:
        """`failing`: texts or image paths that contain it fail alone; empty = none."""
        self._dimensions = dimensions
        self._failing = failing

    def embed_images(self, images: Sequence[ImageFile]) -> list[FloatVector | ItemError]:
        return [self._embed(image.sha256, str(image.path)) for image in images]

    def embed_texts(self, texts: Sequence[str]) -> list[FloatVector | ItemError]:
        return [self._embed(text, text) for text in texts]

    def describe(self) -> dict[str, str]:
        return {
            "backend": "zero_cost",
            "checkpoint": "hash",
            "revision": "1",
            "dimensions": str(self._dimensions),
        }

    def _embed(self, content: str, shown: str) -> FloatVector | ItemError:
        if self._failing and self._failing in shown:
            return ItemError(f"asked to fail on {self._failing!r}")
        seed = int.from_bytes(_hash(content)[:8], "little")
        vector = np.random.default_rng(seed).standard_normal(self._dimensions)
        return (vector / np.linalg.norm(vector)).astype(np.float32)


def language_model(failing: str = "") -> ZeroCostLanguageModel:
    """Factory for profiles."""
    return ZeroCostLanguageModel(failing)


def embedding_model(dimensions: int = 64, failing: str = "") -> ZeroCostEmbeddingModel:
    """Factory for profiles."""
    return ZeroCostEmbeddingModel(dimensions, failing)


def _hash(text: str) -> bytes:
    return hashlib.sha256(text.encode()).digest()


def _hash_of_prompt(prompt: Prompt) -> str:
    return hashlib.sha256(_shown_to_model(prompt).encode()).hexdigest()


def _shown_to_model(prompt: Prompt) -> str:
    return "\0".join([prompt.system, prompt.text, *[image.sha256 for image in prompt.images]])


def _phrase(seed: str) -> str:
    return " ".join(_WORDS[byte % len(_WORDS)] for byte in _hash(seed)[:3])


def _instance(schema: Mapping[str, Any], seed: str) -> Any:
    """A value that satisfies the schema; knows what our own schemas use."""
    if "enum" in schema:
        return schema["enum"][_hash(seed)[0] % len(schema["enum"])]
    kind = schema["type"]
    if kind == "object":
        return {
            name: _instance(part, f"{seed}.{name}") for name, part in schema["properties"].items()
        }
    if kind == "array":
        length = min(schema.get("maxItems", 2), max(schema.get("minItems", 0), 2))
        return [_instance(schema["items"], f"{seed}[{place}]") for place in range(length)]
    if kind == "string":
        return _phrase(seed)[: schema.get("maxLength", 400)]
    raise ItemError(f"zero_cost can't make a JSON value of type {kind!r}")
