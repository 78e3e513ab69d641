"""Runs that only build an image database, and runs after one."""

from __future__ import annotations

import json
from pathlib import Path

import msgspec
import pytest
from redis import Redis as BlockingRedis
from redis.asyncio import Redis

from broker.benchmark_run import coordinate
from broker.run_store import RunRequest, change_status, run_folder
from broker.submission import RunView, benchmark_status, submit_benchmark
from shared.contracts.messages import Failure, RequestMessage
from shared.contracts.skills import CaptionImages, Result
from shared.image_database import open_image_database
from shared.image_database_inventory import take_inventory
from shared.index_choice import IndexChoice, MeasuredRecall, write_choice
from shared.settings import Settings
from tests.integration.broker.conftest import IMAGES, LiveAgents
from tests.unit.broker.fake_agents import FakeAgents

INDEX = RunRequest(dataset="folder:pictures", split="all", name="index", index_only=True)
QUERIES = RunRequest(dataset="folder:pictures", split="all", knobs={"top_k": 8})


class OverloadedAgents(FakeAgents):
    """Cannot caption some rows for as long as they are `overloaded`."""

    overloaded = True

    def __init__(self) -> None:
        super().__init__(rows=IMAGES, broken_rows=frozenset({4}))
        self.captioned: list[int] = []

    def __call__(self, request: RequestMessage) -> Result | Failure:
        if isinstance(request.body, CaptionImages):
            self.captioned += request.body.rows
        if not self.overloaded:
            self.broken_rows = frozenset()
        return super().__call__(request)


@pytest.fixture
def overloaded(agents: LiveAgents) -> OverloadedAgents:
    agents._answer = OverloadedAgents()
    return agents._answer


async def ignore(status: object) -> None:
    """Nobody watches."""


async def run(
    request: RunRequest, settings: Settings, redis: Redis, blocking_redis: BlockingRedis
) -> RunView:
    """Submit and coordinate in this process."""
    run_id = submit_benchmark(blocking_redis, settings, request)
    await coordinate(run_id, settings, redis, ignore)
    return benchmark_status(blocking_redis, settings, run_id)


async def test_an_index_run_builds_the_database_and_asks_no_query(
    agents: LiveAgents, settings: Settings, redis: Redis, blocking_redis: BlockingRedis
) -> None:
    view = await run(INDEX, settings, redis, blocking_redis)
    assert (view.state, view.error) == ("finished", "")
    assert view.counts == {"images": IMAGES, "failed_images": 1}
    assert [phase["phase"] for phase in view.progress] == [
        "gallery",
        "agents",
        "image_database",
        "done",
    ]
    assert not [asked for asked in agents.asked if "/q0/" in asked]
    (entry,) = take_inventory(settings).databases
    assert view.note == f"image database {entry.key}"
    assert (entry.images, entry.captions, entry.runs) == (IMAGES, IMAGES - 1, ())
    assert entry.datasets == ("pictures/all",)


async def test_a_run_asks_for_no_caption_that_an_index_run_has_got(
    agents: LiveAgents, settings: Settings, redis: Redis, blocking_redis: BlockingRedis
) -> None:
    await run(INDEX, settings, redis, blocking_redis)
    agents.asked.clear()
    view = await run(QUERIES, settings, redis, blocking_redis)
    assert view.state == "finished"
    assert not [asked for asked in agents.asked if "/index/" in asked]
    (entry,) = take_inventory(settings).databases
    assert entry.runs == (view.id,)


async def test_retrying_asks_for_failed_rows_and_runs_before_it_keep_their_version(
    overloaded: OverloadedAgents,
    settings: Settings,
    redis: Redis,
    blocking_redis: BlockingRedis,
) -> None:
    before = await run(QUERIES, settings, redis, blocking_redis)
    overloaded.overloaded = False
    overloaded.captioned.clear()
    again = msgspec.structs.replace(INDEX, retry_failed=True)
    view = await run(again, settings, redis, blocking_redis)
    assert view.counts == {"images": IMAGES, "failed_images": 1}
    assert overloaded.captioned == [4]
    after = await run(QUERIES, settings, redis, blocking_redis)
    former, latest = (database_of(settings, of) for of in (before, after))
    assert former != latest
    opened = open_image_database(settings.image_db_folder, former)
    assert opened.captions[4] is None
    assert open_image_database(settings.image_db_folder, latest).captions[4] is not None
    # Taken up again, a run goes on with the version it has begun with.
    change_status(settings.runs_folder, before.id, state="queued")
    await coordinate(before.id, settings, redis, ignore)
    assert benchmark_status(blocking_redis, settings, before.id).state == "finished"
    assert database_of(settings, before) == former


async def test_captions_in_the_users_folder_are_used_and_are_part_of_the_key(
    agents: LiveAgents, settings: Settings, redis: Redis, blocking_redis: BlockingRedis
) -> None:
    await run(INDEX, settings, redis, blocking_redis)
    lines = [{"image_id": f"{n:02d}.png", "caption": f"my picture {n}"} for n in range(IMAGES)]
    path = settings.data_root / "pictures" / "captions.jsonl"
    path.write_text("\n".join(json.dumps(line) for line in lines))
    agents.asked.clear()
    await run(INDEX, settings, redis, blocking_redis)
    entries = take_inventory(settings).databases
    assert sorted(entry.captioner for entry in entries) == ["fake-clip", "given captions"]
    assert not [asked for asked in agents.asked if "/caption/" in asked]
    (own,) = [entry for entry in entries if entry.captioner == "given captions"]
    database = open_image_database(settings.image_db_folder, own.key)
    assert database.captions[7] == "my picture 7"


async def test_a_run_by_an_approximate_index_says_so_with_its_recall(
    agents: LiveAgents, settings: Settings, redis: Redis, blocking_redis: BlockingRedis
) -> None:
    exact = await run(QUERIES, settings, redis, blocking_redis)
    folder = settings.image_db_folder / database_of(settings, exact)
    found = {"visual": 0.999, "textual": 0.998, "hybrid": 0.997}
    recall = MeasuredRecall(k=100, queries=64, times_exact=0.1, measured_at="", **found)
    write_choice(folder, IndexChoice(kind="qdrant", collection="c", points=IMAGES, recall=recall))
    view = await run(QUERIES, settings, redis, blocking_redis)
    of_run = run_folder(settings.runs_folder, view.id)
    manifest = json.loads((of_run / "manifest.json").read_bytes())
    assert manifest["database"]["index"]["recall"]["hybrid"] == 0.997
    said = "ranked by qdrant, whose recall@100 against exact ranking is 0.999 visual, 0.998 textual"
    assert any(said in deviation for deviation in manifest["deviations"])
    assert any(said in deviation for deviation in view.deviations)
    assert said in (of_run / "metrics.txt").read_text()
    before = run_folder(settings.runs_folder, exact.id)
    assert "index" not in json.loads((before / "manifest.json").read_bytes())["database"]
    assert "ranked by" not in (before / "metrics.txt").read_text()


def database_of(settings: Settings, view: RunView) -> str:
    manifest = Path(run_folder(settings.runs_folder, view.id) / "manifest.json")
    key: str = json.loads(manifest.read_bytes())["database"]["key"]
    return key
