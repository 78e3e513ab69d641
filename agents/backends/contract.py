"""What an engine must offer: generation, constrained choice, embedding. Imports no engine."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

import msgspec
import numpy as np
import numpy.typing as npt

from shared.errors import ItemError

FloatVector = npt.NDArray[np.float32]


class ImageFile(msgspec.Struct, frozen=True):
    """An image on disk and the sha256 of its bytes (hex), the key under which engines cache it."""

    path: Path
    sha256: str


class Prompt(msgspec.Struct, frozen=True):
    """One user turn: images first, then text; `system` is optional.

    Attributes:
        tiles: how many tiles an image is cut into at most, for models that cut tiles; 0 = as many
            as the model is set to.
    """

    text: str
    images: tuple[ImageFile, ...] = ()
    system: str = ""
    tiles: int = 0


class GenerationRequest(msgspec.Struct, frozen=True):
    """Free text, or JSON by `json_schema` where one is given. Decoding is greedy.

    Attributes:
        max_tokens: bound of the answer.
    """

    prompt: Prompt
    max_tokens: int
    json_schema: Mapping[str, Any] | None = None


class ChoiceRequest(msgspec.Struct, frozen=True):
    """Constrained tokens: which of `choices` comes next.

    Attributes:
        count: how many choices in a row, each seeing those before it.
    """

    prompt: Prompt
    choices: tuple[str, ...] = ("Yes", "No")
    count: int = 1


class LanguageModel(Protocol):
    """A chat model, with or without image input. Results come in request order, one per request.

    The same request gives the same bytes whatever else is in the batch.
    """

    def generate(self, requests: Sequence[GenerationRequest]) -> list[str | ItemError]:
        """The generated texts."""
        ...

    def choose(self, requests: Sequence[ChoiceRequest]) -> list[tuple[float, ...] | ItemError]:
        """For each request, the probability of each choice; they sum to 1.

        With `count` above 1, those of the first choice made, then those of the next, and so on.
        """
        ...

    def describe(self) -> dict[str, str]:
        """Identity for cache keys: backend, checkpoint, revision, digest, versions."""
        ...


class EmbeddingModel(Protocol):
    """A two-tower model. Embeddings are float32 and of unit length.

    The same image or text gives the same bytes whatever else is in the batch.
    """

    def embed_images(self, images: Sequence[ImageFile]) -> list[FloatVector | ItemError]:
        """One vector per image, in order."""
        ...

    def embed_texts(self, texts: Sequence[str]) -> list[FloatVector | ItemError]:
        """One vector per text, in order; longer texts than the model reads are cut."""
        ...

    def describe(self) -> dict[str, str]:
        """Identity for cache keys: backend, checkpoint, revision, digest, versions."""
        ...
