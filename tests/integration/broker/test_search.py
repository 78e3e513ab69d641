"""Interactive searches over the real bus, alone and behind a full queue of benchmark work."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator

import msgspec
import numpy as np
import pytest
from redis import Redis as BlockingRedis
from redis.asyncio import Redis

from broker.benchmark_run import coordinate
from broker.search import Searcher, SearchRequest, SearchTimeoutError
from broker.submission import submit_benchmark
from shared.bus import keys
from shared.bus.client import BusClient
from shared.bus.connection import connect
from shared.contracts.messages import RequestMessage
from shared.contracts.skills import AGENT_OF, EmbedTexts, ImagineText, ProposeQuestions, Request
from shared.errors import (
    ConfigurationError,
    DatasetError,
    ItemError,
    PermanentError,
    TransientError,
)
from shared.galleries import open_gallery
from shared.metadata import write_metadata
from shared.settings import Settings
from tests.integration.broker.conftest import LiveAgents
from tests.integration.broker.test_benchmark_runs import REQUEST, ignore, until

BATCH_S = 0.05
WAITING = 1_200
COARSE = {"stages": ["coarse"], "imagine_text": False, "imagine_image": False}
FULL = {"top_k": 8}


@pytest.fixture
async def gallery(
    agents: LiveAgents, settings: Settings, blocking_redis: BlockingRedis, redis: Redis
) -> str:
    """The key of a gallery that a benchmark has indexed."""
    await coordinate(submit_benchmark(blocking_redis, settings, REQUEST), settings, redis, ignore)
    (listing,) = settings.galleries_folder.glob("*/meta.json")
    return listing.parent.name


@pytest.fixture
async def searcher(settings: Settings) -> AsyncIterator[Searcher]:
    client = connect(settings.redis_url)
    async with Searcher(client, settings) as searcher:
        yield searcher
    await client.aclose()


async def test_a_search_finds_what_a_benchmark_query_would_and_says_why(
    agents: LiveAgents, gallery: str, searcher: Searcher
) -> None:
    answer = await searcher.search(
        SearchRequest(
            gallery=gallery, reference_id="03.png", modification_text="x", k=5, knobs=FULL
        )
    )
    assert (answer.gallery, answer.stage) == (gallery, "verified")
    assert [hit.rank for hit in answer.hits] == [1, 2, 3, 4, 5]
    assert "03.png" not in [hit.image_id for hit in answer.hits], "not the same image back"
    assert len(answer.propositions) == 3
    assert all(len(hit.image_answers or ()) == 3 for hit in answer.hits)
    assert answer.imagination.image is not None
    assert "x of row" in answer.imagination.image.caption
    by_key = await searcher.search(
        SearchRequest(
            database=answer.database, reference_id="03.png", modification_text="x", k=5, knobs=FULL
        )
    )
    assert by_key.hits == answer.hits
    without_reference = await searcher.search(
        SearchRequest(gallery=gallery, modification_text="a red one", knobs=COARSE)
    )
    assert len(without_reference.hits) == 10


async def test_each_question_worker_gets_one_message_about_the_images_of_a_search(
    agents: LiveAgents, gallery: str, settings: Settings, redis: Redis
) -> None:
    request = SearchRequest(gallery=gallery, modification_text="x", k=5, knobs={"top_k": 12})
    for workers in (1, 2):
        # Given so many, and candidates enough for more messages of XR_VERIFY_CHUNK
        assert 12 / settings.verify_chunk > workers
        if workers == 2:
            agents.start("question")
            alive = BusClient(redis, "xr:reply:nobody").live_agents
            async with asyncio.timeout(10):
                while [one.agent for one in await alive()].count("question") < workers:  # noqa: ASYNC110
                    await asyncio.sleep(0.05)
        agents.asked.clear()
        # When somebody searches
        async with Searcher(redis, settings) as searcher:
            await searcher.search(request)
        # Then each has one message about images, and one about captions
        for step in ("verify_image", "verify_caption"):
            assert len([one for one in agents.asked if f"/{step}/" in one]) == workers
    # And where the best are enough, they are asked about in small messages as before
    agents.asked.clear()
    early = msgspec.structs.replace(request, knobs={"top_k": 12, "verify_depth": 12})
    async with Searcher(redis, settings) as searcher:
        await searcher.search(early)
    assert len([one for one in agents.asked if "/verify_image/" in one]) >= 3


async def test_a_filtered_search_ranks_only_images_that_meet_the_filter(
    agents: LiveAgents, gallery: str, searcher: Searcher, settings: Settings
) -> None:
    opened = open_gallery(settings.galleries_folder, gallery)
    ids = opened.image_ids
    write_metadata(opened, {image_id: {"price": row} for row, image_id in enumerate(ids)})
    request = SearchRequest(
        gallery=gallery,
        modification_text="x",
        knobs=COARSE,
        filter={"price": {"gte": 4, "lt": 8}},
    )
    answer = await searcher.search(request)
    assert {hit.image_id for hit in answer.hits} == set(ids[4:8])
    with pytest.raises(ConfigurationError, match="no image meets"):
        await searcher.search(msgspec.structs.replace(request, filter={"price": -1}))


@pytest.mark.parametrize(
    ("changes", "error", "words"),
    [
        ({"gallery": "0" * 32}, DatasetError, "0{32}"),
        ({"gallery": "../../etc"}, DatasetError, "etc"),
        ({"gallery": "", "database": "f" * 32}, DatasetError, "does not exist"),
        ({"gallery": ""}, ConfigurationError, "either a gallery or a database"),
        ({"reference_id": "nobody.png"}, DatasetError, "nobody.png"),
        ({"knobs": {"topk": 3}}, ConfigurationError, "topk"),
        ({"k": 5_000}, ConfigurationError, "rank_depth"),
        ({"timeout_s": 0.0}, ConfigurationError, "timeout_s"),
        ({"modification_text": "refuse this"}, ItemError, "refuses"),
    ],
)
async def test_what_cannot_be_searched_is_refused_in_clear_words(
    changes: dict[str, object],
    error: type[Exception],
    words: str,
    gallery: str,
    searcher: Searcher,
) -> None:
    fields = {"gallery": gallery, "reference_id": "03.png", "modification_text": "x"} | changes
    with pytest.raises(error, match=words):
        await searcher.search(SearchRequest(**fields))  # type: ignore[arg-type]


async def test_a_search_that_is_not_answered_in_time_ends_and_leaves_no_work(
    agents: LiveAgents, gallery: str, searcher: Searcher, redis: Redis
) -> None:
    agents.gate.clear()
    request = SearchRequest(
        gallery=gallery, reference_id="03.png", modification_text="x", knobs=FULL, timeout_s=0.5
    )
    with pytest.raises(SearchTimeoutError, match=r"no answer within 0\.5 s"):
        await searcher.search(request)
    agents.gate.set()
    answer = await searcher.search(SearchRequest(**{**_fields(request), "timeout_s": 30.0}))
    assert answer.hits


async def test_a_search_with_an_agent_missing_does_not_wait_for_it(
    gallery: str, agents: LiveAgents, settings: Settings, redis: Redis
) -> None:
    await agents.stop()
    await redis.delete(keys.AGENTS)
    async with Searcher(redis, settings) as searcher:
        began = time.monotonic()
        with pytest.raises(TransientError, match=r"no imagination agent and .* is up"):
            await searcher.search(SearchRequest(gallery=gallery, modification_text="x"))
        assert time.monotonic() - began < 2.0


async def test_a_database_of_another_clip_is_not_searched(
    gallery: str,
    agents: LiveAgents,
    settings: Settings,
    redis: Redis,
    blocking_redis: BlockingRedis,
    searcher: Searcher,
) -> None:
    known = await searcher.search(
        SearchRequest(gallery=gallery, modification_text="x", knobs=COARSE)
    )
    await agents.stop()
    await redis.delete(keys.AGENTS)
    others = LiveAgents(redis)
    for agent in ("imagination", "similarity", "question"):
        others.start(agent, {"checkpoint": "models/another-clip"})
    try:
        async with Searcher(redis, settings) as other:
            await until(lambda: blocking_redis.scard(keys.AGENTS) == 3, "the heartbeats")
            with pytest.raises(PermanentError, match="another CLIP"):
                await other.search(SearchRequest(database=known.database, modification_text="x"))
            with pytest.raises(DatasetError, match="index it first"):
                await other.search(SearchRequest(gallery=gallery, modification_text="x"))
    finally:
        await others.stop()


@pytest.mark.slow
@pytest.mark.parametrize(("knobs", "steps"), [(COARSE, 1), (FULL, 3)])
async def test_searches_behind_a_full_benchmark_queue_wait_for_less_than_three_batches_a_step(
    knobs: dict[str, object],
    steps: int,
    agents: LiveAgents,
    gallery: str,
    searcher: Searcher,
    redis: Redis,
) -> None:
    # Given agents whose batches take 50 ms each, and a long queue in front of each of them
    agents.batch_s = BATCH_S
    bus = BusClient(redis, "xr:reply:benchmark", queue_limit=10 * WAITING)
    for kind in (ImagineText("t"), EmbedTexts(("t",)), ProposeQuestions("t", (), (), (), 3)):
        await bus.send([_lo(kind, number) for number in range(WAITING)], "lo")
    depths = [await bus.depth(AGENT_OF[kind]) for kind in (ImagineText, EmbedTexts)]
    assert all(depth.waiting > 1_000 for depth in depths)

    # When somebody searches, again and again
    took_s = []
    for number in range(40):
        request = SearchRequest(
            gallery=gallery, reference_id="03.png", modification_text=f"x{number}", knobs=knobs
        )
        began = time.monotonic()
        await searcher.search(request)
        took_s.append(time.monotonic() - began)

    # Then the queue is no matter: what is being worked on is finished, and then it is their turn
    p50, p95 = np.percentile(took_s, 50) / BATCH_S, np.percentile(took_s, 95) / BATCH_S
    print(f"\nsearch of {steps} step(s): p50 {p50:.2f}, p95 {p95:.2f} batches of 50 ms")
    assert p95 < 3 * steps
    for kind in (ImagineText, EmbedTexts):
        assert (await bus.depth(AGENT_OF[kind])).waiting > 0, "there was work to wait for"


def _lo(body: Request, number: int) -> RequestMessage:
    return RequestMessage(
        message_id=f"busy/1/q{number}/step/0", job_id="busy/1", query_id=f"q{number}",
        reply_to="xr:reply:benchmark", body=body,
    )  # fmt: skip


def _fields(request: SearchRequest) -> dict[str, object]:
    return {name: getattr(request, name) for name in request.__struct_fields__}
