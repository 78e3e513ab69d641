"""The zero-cost models with a meter on them, for the benchmark's profile to name by dotted path.

Loading the embedding model also puts a meter on the ranking of its agent's process: ranking is
arithmetic that grows with the gallery, and is told apart from what the system costs.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

from msgspec.structs import replace

from agents.backends.contract import (
    ChoiceRequest,
    EmbeddingModel,
    FloatVector,
    GenerationRequest,
    ImageFile,
    LanguageModel,
)
from agents.backends.zero_cost import ZeroCostEmbeddingModel, ZeroCostLanguageModel
from agents.similarity import skills
from agents.spending import spend
from shared.errors import ItemError
from shared.ranking import rank_galleries
from tests.benchmarks.meters import CallMeter

MODELS, RANKING = "models", "ranking"

Outcome = TypeVar("Outcome")


def language_model(meters: str) -> LanguageModel:
    """Factory for profiles. `meters`: the folder of the meters' files."""
    return MeteredLanguageModel(CallMeter(Path(meters), MODELS))


def embedding_model(meters: str, dimensions: int) -> EmbeddingModel:
    """Factory for profiles; see the module's head for what else it does."""
    ranking = CallMeter(Path(meters), RANKING)
    skills.rank_galleries = metered(rank_galleries, ranking)  # type: ignore[attr-defined]
    return MeteredEmbeddingModel(CallMeter(Path(meters), MODELS), dimensions)


def metered(call: Callable[..., Outcome], meter: CallMeter) -> Callable[..., Outcome]:
    """`call`, its CPU time counted."""

    def counted(*arguments: Any, **named: Any) -> Outcome:
        with meter.running():
            return call(*arguments, **named)

    return counted


class MeteredLanguageModel:
    """The zero-cost model, but that it proposes as many questions as it may."""

    def __init__(self, meter: CallMeter) -> None:
        self._model = ZeroCostLanguageModel()
        self._meter = meter

    def generate(self, requests: Sequence[GenerationRequest]) -> list[str | ItemError]:
        with self._meter.running():
            return self._model.generate([_proposing_all(request) for request in requests])

    def choose(self, requests: Sequence[ChoiceRequest]) -> list[tuple[float, ...] | ItemError]:
        with self._meter.running():
            return self._model.choose(requests)

    def describe(self) -> dict[str, str]:
        return self._model.describe()


class MeteredEmbeddingModel:
    """The zero-cost model; the images it embeds are told with each answer."""

    def __init__(self, meter: CallMeter, dimensions: int) -> None:
        self._model = ZeroCostEmbeddingModel(dimensions)
        self._meter = meter
        self._counters: Counter[str] = Counter()

    def embed_images(self, images: Sequence[ImageFile]) -> list[FloatVector | ItemError]:
        if images:
            spend(self._counters, images_embedded=len(images))
        with self._meter.running():
            return self._model.embed_images(images)

    def embed_texts(self, texts: Sequence[str]) -> list[FloatVector | ItemError]:
        with self._meter.running():
            return self._model.embed_texts(texts)

    def describe(self) -> dict[str, str]:
        return self._model.describe()


def _proposing_all(request: GenerationRequest) -> GenerationRequest:
    """The zero-cost model fills a list with two entries unless the schema asks for more."""
    schema: Mapping[str, Any] = request.json_schema or {}
    propositions = schema.get("properties", {}).get("propositions")
    if propositions is None:
        return request
    longest = {**propositions, "minItems": propositions["maxItems"]}
    properties = {**schema["properties"], "propositions": longest}
    return replace(request, json_schema={**schema, "properties": properties})
