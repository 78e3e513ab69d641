"""Finished runs on disk without processes: a real data set's files, fake models, real rankings."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Any

from broker.agents_client import AgentsClient
from broker.coordinator import SearchSpace, query_answerer
from broker.manifest import BINDING, describe_run
from broker.query_window import run_queries
from broker.run_results import RunQuestions, write_results
from broker.run_store import RunRequest, RunStore, change_status, create_run
from shared.contracts.skills import ItemFailure, RankGallery, Request, Result, Vector
from shared.datasets import load_dataset
from shared.galleries import write_gallery
from shared.image_database import ImageDatabase
from shared.image_database_writer import ImageDatabaseWriter
from shared.knobs import resolve
from shared.ranking import rank_gallery
from shared.settings import Settings
from tests.unit.broker.fake_agents import FakeAgents, text_vector
from tests.unit.broker.fake_bus import FakeBus
from tests.unit.shared.index_scenes import CAPTIONER, CLIP, fill

IDENTITIES: Mapping[str, Mapping[str, str]] = {
    "imagination": {"checkpoint": "models/tiny", "backend": "fake"},
    "similarity": {"checkpoint": "models/vit", "revision": "r1", "digest": "0123456789abcdef"},
}


class DatabaseAgents(FakeAgents):
    """Fake agents whose similarity agent ranks an image database as the real one does."""

    def __init__(self, database: ImageDatabase, **options: Any) -> None:
        super().__init__(rows=len(database), **options)
        self._database = database

    def _answer(self, body: Request) -> Result:
        if not isinstance(body, RankGallery):
            return super()._answer(body)
        texts = {text for texts in body.text_sets.values() for text in texts}
        return rank_gallery(body, self._database, {text: text_vector(text) for text in texts})


def finish_run(
    settings: Settings,
    dataset: str,
    split: str,
    knobs: Mapping[str, Any] | None = None,
    *,
    name: str = "",
    limit: int | None = None,
    **agents: Any,
) -> str:
    """Run a benchmark whose files lie in the data root, to its end; returns the run's id.

    Args:
        agents: options of `FakeAgents`, e.g. what is refused.
    """
    request = RunRequest(
        dataset=dataset, split=split, name=name, knobs=dict(knobs or {}), limit=limit
    )
    run_id = create_run(settings.runs_folder, request, "vit")
    asyncio.run(_work(settings, request, run_id, agents))
    change_status(settings.runs_folder, run_id, state="finished")
    return run_id


async def _work(
    settings: Settings, request: RunRequest, run_id: str, options: Mapping[str, Any]
) -> None:
    benchmark = load_dataset(request.dataset, request.split, settings.data_root)
    queries = benchmark.queries[: request.limit]
    gallery = write_gallery(settings.galleries_folder, benchmark.images, benchmark.searchable)
    writer = ImageDatabaseWriter(settings.image_db_folder, gallery, CAPTIONER, CLIP, 64)
    fill(writer, image_of=_image_vector)
    database = writer.finish()
    knobs = resolve(request.knobs, {}, settings.seed)
    manifest = describe_run(
        request, benchmark, len(queries), knobs, settings, IDENTITIES,
        {"key": gallery.key}, {"key": database.key},
    )  # fmt: skip
    space = SearchSpace(
        gallery=gallery.key, database=database.key, row_of=gallery.row_of,
        caption_of=database.captions.__getitem__,
        exclude_reference=benchmark.protocol.exclude_reference,
        verify_chunk=settings.verify_chunk, rows=len(database),
    )  # fmt: skip
    store = RunStore(settings.runs_folder, run_id)
    store.keep_manifest(manifest, BINDING)
    agents = DatabaseAgents(database, **options)
    async with AgentsClient(FakeBus(agents), run_id, 1, settings) as client:
        answer = query_answerer(queries, store.states, client.ask, space, knobs)
        await run_queries(queries, 4, answer, store.record, lambda _: None, asyncio.Event())
    write_results(store, RunQuestions(benchmark, queries, gallery, knobs))
    await store.close()


def _image_vector(row: int) -> Vector | ItemFailure:
    return Vector(text_vector(f"image {row}"))
