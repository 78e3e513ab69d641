"""Recorded runs without processes: fake models, but the real ranking of a small random gallery."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from broker.agents_client import AgentsClient
from broker.coordinator import SearchSpace, query_answerer
from broker.query_state import QueryState
from broker.query_window import run_queries
from shared.contracts.skills import (
    GalleryRanked,
    ImageImagined,
    ImagineImage,
    ImagineText,
    RankGallery,
    Request,
    Result,
    TextImagined,
)
from shared.datasets import Query
from shared.knobs import Knobs
from shared.ranking import rank_gallery
from shared.ranking_layout import Matrix
from shared.settings import Settings
from tests.unit.broker.fake_agents import DIMENSIONS, FakeAgents, text_vector
from tests.unit.broker.fake_bus import FakeBus

ROWS = 80


@dataclass(frozen=True)
class RandomGallery:
    """Embeddings of `ROWS` images, the last ten not searched."""

    image_embeddings: Matrix
    caption_embeddings: Matrix
    searchable: int = ROWS - 10


def random_gallery(seed: int = 0, without_caption: tuple[int, ...] = (5, 17)) -> RandomGallery:
    drawn = np.random.default_rng(seed).standard_normal((2, ROWS, DIMENSIONS)).astype(np.float32)
    images, captions = drawn / np.linalg.norm(drawn, axis=2, keepdims=True)
    captions[list(without_caption)] = 0.0
    return RandomGallery(images, captions)


class RankingAgents(FakeAgents):
    """Fake agents whose similarity agent ranks a gallery as the real one does."""

    def __init__(self, gallery: RandomGallery, **options: object) -> None:
        super().__init__(rows=ROWS, **options)  # type: ignore[arg-type]
        self.gallery = gallery
        self.asked: list[Request] = []

    def _answer(self, body: Request) -> Result:
        self.asked.append(body)
        if isinstance(body, RankGallery):
            return self._rank(body)
        if isinstance(body, ImagineText) and "unusable" in body.modification_text:
            return TextImagined((), (body.modification_text,), parsed=False)
        if isinstance(body, ImagineImage) and "unusable" in body.modification_text:
            return ImageImagined((), (), body.modification_text, parsed=False)
        return super()._answer(body)

    def _rank(self, body: RankGallery) -> GalleryRanked:
        texts = {text for texts in body.text_sets.values() for text in texts}
        return rank_gallery(body, self.gallery, {text: text_vector(text) for text in texts})


SPACE = SearchSpace(
    gallery="g",
    database="d",
    row_of=int,
    caption_of=lambda row: f"caption of image {row}",
    exclude_reference=True,
    verify_chunk=7,
)


def image_id(row: int) -> str:
    return str(row)


def queries(count: int = 6) -> list[Query]:
    """With and without reference, with subsets, one whose answers are unusable, one refused."""
    texts = ["make it red", "two of them", "unusable", "refuse this", "at night", "a green one"]
    return [
        Query(
            query_id=f"q{n}",
            reference_id=None if n % 3 == 1 else str(n + 70 if n % 2 else n),
            modification_text=f"{texts[n % 6]}" if n % 6 == 3 else f"{texts[n % 6]} {n}",
            target_ids=(str((7 * n + 3) % 70), str((11 * n + 9) % 70)),
            subset_ids=tuple(str((5 * n + 9 * m + 1) % 70) for m in range(5)) if n % 2 else (),
        )
        for n in range(count)
    ]


async def live_states(
    asked: Sequence[Query],
    knobs: Knobs,
    agents: FakeAgents,
    window: int = 3,
    states: dict[str, QueryState] | None = None,
) -> dict[str, QueryState]:
    """What a run records about these queries, those that have a state already left out."""
    recorded = {} if states is None else states

    async def record(state: QueryState) -> None:
        recorded[state.query_id] = state

    async with AgentsClient(FakeBus(agents), "run", 1, Settings()) as client:
        answer = query_answerer(asked, recorded, client.ask, SPACE, knobs)
        waiting = [query for query in asked if query.query_id not in recorded]
        await run_queries(waiting, window, answer, record, lambda state: None, asyncio.Event())
    return {query.query_id: recorded[query.query_id] for query in asked}
