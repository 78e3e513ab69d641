"""Stand-in engines of the fault suite: answers by hash, a stated time per call, faults on demand.

A fault is a file in the control folder that somebody else puts there, named `<engine>.<fault>`:

die      once: the engine is lost for good, as a GPU context is
hang     once: the call never returns
oom      while it is there: a call of more requests than the file says runs out of memory
poison   while it is there: the process ends at once when it sees the text the file holds
raises   while it is there: a call that holds the text raises

What was done is appended to `<engine>.log`.
"""

from __future__ import annotations

import os
import time
from collections.abc import Sequence
from pathlib import Path

from agents.backends.contract import (
    ChoiceRequest,
    EmbeddingModel,
    FloatVector,
    GenerationRequest,
    ImageFile,
    LanguageModel,
)
from agents.backends.zero_cost import ZeroCostEmbeddingModel, ZeroCostLanguageModel
from shared.errors import ItemError

POISONED_EXIT = 87
_HANG_S = 24 * 3600.0


class AcceleratorError(RuntimeError):
    """Named as torch names a GPU context that is lost for good."""


class OutOfMemoryError(RuntimeError):
    """Named as torch names it; the memory is free again afterwards."""


class Faults:
    """What is asked of one engine in the control folder."""

    def __init__(self, folder: str, engine: str) -> None:
        self._folder = Path(folder)
        self._engine = engine

    def strike(self, texts: Sequence[str]) -> None:
        """Called with everything one call sees, before it answers."""
        if self._holds("poison", texts):
            self._log(f"poisoned in a call of {len(texts)}")
            os._exit(POISONED_EXIT)
        if self._once("die"):
            self._log(f"died in a call of {len(texts)}")
            raise AcceleratorError("CUDA error: an illegal memory access was encountered")
        if self._once("hang"):
            self._log(f"hung in a call of {len(texts)}")
            time.sleep(_HANG_S)
        largest = self._content("oom")
        if largest and len(texts) > int(largest):
            self._log(f"out of memory in a call of {len(texts)}")
            raise OutOfMemoryError(f"CUDA out of memory: {len(texts)} requests")
        if self._holds("raises", texts):
            self._log(f"raised in a call of {len(texts)}")
            raise ValueError("this engine cannot do this")

    def _content(self, fault: str) -> str:
        try:
            return (self._folder / f"{self._engine}.{fault}").read_text()
        except FileNotFoundError:
            return ""

    def _holds(self, fault: str, texts: Sequence[str]) -> bool:
        marker = self._content(fault)
        return bool(marker) and any(marker in text for text in texts)

    def _once(self, fault: str) -> bool:
        try:
            (self._folder / f"{self._engine}.{fault}").unlink()
        except FileNotFoundError:
            return False
        return True

    def _log(self, line: str) -> None:
        with (self._folder / f"{self._engine}.log").open("a") as log:
            log.write(f"{line}\n")


class Pace:
    """How long a call takes: so much for the call and so much for each of its requests."""

    def __init__(self, call_ms: float, request_ms: float) -> None:
        self._call_s, self._request_s = call_ms / 1000, request_ms / 1000

    def keep(self, requests: int) -> None:
        time.sleep(self._call_s + requests * self._request_s)


class PacedLanguageModel:
    """The zero-cost language model, slow and breakable."""

    def __init__(self, faults: Faults, pace: Pace) -> None:
        self._model = ZeroCostLanguageModel()
        self._faults, self._pace = faults, pace

    def generate(self, requests: Sequence[GenerationRequest]) -> list[str | ItemError]:
        self._before([request.prompt.text for request in requests])
        return self._model.generate(requests)

    def choose(self, requests: Sequence[ChoiceRequest]) -> list[tuple[float, ...] | ItemError]:
        self._before([request.prompt.text for request in requests])
        return self._model.choose(requests)

    def describe(self) -> dict[str, str]:
        return self._model.describe()

    def _before(self, texts: Sequence[str]) -> None:
        self._pace.keep(len(texts))
        self._faults.strike(texts)


class PacedEmbeddingModel:
    """The zero-cost embedding model, slow and breakable."""

    def __init__(self, faults: Faults, pace: Pace, dimensions: int) -> None:
        self._model = ZeroCostEmbeddingModel(dimensions)
        self._faults, self._pace = faults, pace

    def embed_images(self, images: Sequence[ImageFile]) -> list[FloatVector | ItemError]:
        self._before([str(image.path) for image in images])
        return self._model.embed_images(images)

    def embed_texts(self, texts: Sequence[str]) -> list[FloatVector | ItemError]:
        self._before(texts)
        return self._model.embed_texts(texts)

    def describe(self) -> dict[str, str]:
        return self._model.describe()

    def _before(self, texts: Sequence[str]) -> None:
        self._pace.keep(len(texts))
        self._faults.strike(texts)


def language_model(
    control: str, engine: str, call_ms: float = 0.0, request_ms: float = 0.0
) -> LanguageModel:
    """Factory for profiles."""
    return PacedLanguageModel(Faults(control, engine), Pace(call_ms, request_ms))


def embedding_model(
    control: str,
    engine: str,
    call_ms: float = 0.0,
    request_ms: float = 0.0,
    dimensions: int = 64,
) -> EmbeddingModel:
    """Factory for profiles."""
    return PacedEmbeddingModel(Faults(control, engine), Pace(call_ms, request_ms), dimensions)


def profile(control: Path, call_ms: float, request_ms: float = 0.0) -> str:
    """The text of a profile with these engines: imagination, proposer, evaluator and clip.

    The pace is no part of an engine's identity: what was indexed at one pace serves every other.
    """
    options = f'control = "{control}", call_ms = {call_ms}, request_ms = {request_ms}'
    language = "\n".join(
        f"""\
[models.{engine}]
backend = "tests.faults.engines:language_model"
options = {{ {options}, engine = "{engine}" }}
"""
        for engine in ("imagination", "proposer", "evaluator")
    )
    return f"""\
{language}
[models.clip]
backend = "tests.faults.engines:embedding_model"
options = {{ {options}, engine = "clip" }}

[roles]
captioner = "imagination"
imaginer_text = "imagination"
imaginer_image = "imagination"
proposer = "proposer"
evaluator_image = "evaluator"
evaluator_caption = "evaluator"
clip = "clip"
"""
