"""Early stop over the real bus: the best of full verification, from fewer candidates."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Sequence

import pytest
from redis.asyncio import Redis

from broker.agents_client import AgentsClient, tag_of
from broker.coordinator import SearchSpace, answer_query
from broker.query_state import QueryState, encode_state
from broker.stages import rankings_by_stage
from shared.bus import keys
from shared.bus.client import BusClient
from shared.bus.consumer import Consumer
from shared.contracts.messages import Failure, RequestMessage
from shared.contracts.skills import Result, VerifyCaptions, VerifyImages
from shared.datasets import Query
from shared.knobs import Knobs
from shared.settings import Settings
from shared.tasks import stop_tasks
from tests.unit.broker.fake_agents import FakeAgents

ROWS, TOP_K, BEST, QUERIES = 300, 100, 10, 20
SPACE = SearchSpace(
    gallery="g",
    database="d",
    row_of=int,
    caption_of=lambda row: f"caption of image {row}",
    exclude_reference=True,
    verify_chunk=25,
    rows=ROWS,
)


@pytest.fixture
async def worked_on(redis: Redis) -> AsyncIterator[Counter[str]]:
    """Agents without models; counts the candidates they were asked about."""
    counted: Counter[str] = Counter()
    answer = FakeAgents(rows=ROWS, broken_rows=frozenset(range(3, ROWS, 17)))

    async def handle(requests: Sequence[RequestMessage]) -> list[Result | Failure]:
        for request in requests:
            if isinstance(request.body, VerifyImages | VerifyCaptions):
                counted[type(request.body).__name__] += len(request.body.rows)
        return [answer(request) for request in requests]

    consumers = [
        Consumer(redis, agent, handle, worker=f"{agent}-{n}", max_batch=4)
        for agent in ("imagination", "similarity", "question")
        for n in range(2)
    ]
    tasks = [asyncio.create_task(consumer.run()) for consumer in consumers]
    yield counted
    for consumer in consumers:
        consumer.stop()
    await asyncio.wait(tasks, timeout=5)
    await stop_tasks(tasks)


async def answered(redis: Redis, run: str, knobs: Knobs) -> list[QueryState]:
    bus = BusClient(redis, keys.reply(tag_of(run, 1)))
    async with AgentsClient(bus, run, 1, Settings()) as agents:
        queries = [
            Query(query_id=f"q{n}", reference_id=str(n), modification_text=f"t {n}", target_ids=())
            for n in range(QUERIES)
        ]
        states = await asyncio.gather(
            *(answer_query(query, agents.ask, SPACE, knobs) for query in queries)
        )
    await bus.aclose()
    return states


async def test_the_best_are_those_of_full_verification(
    redis: Redis, worked_on: Counter[str]
) -> None:
    full, early = Knobs(top_k=TOP_K), Knobs(top_k=TOP_K, verify_depth=BEST)
    whole = await answered(redis, "full", full)
    all_looks = Counter(worked_on)
    worked_on.clear()
    part = await answered(redis, "early", early)
    looks = Counter(worked_on)
    again = await answered(redis, "again", early)
    for one, other in zip(whole, part, strict=True):
        best = rankings_by_stage(one, full)["verified"][:BEST]
        assert rankings_by_stage(other, early)["verified"][:BEST] == best
    assert [encode_state(state) for state in again] == [encode_state(state) for state in part]
    for kind, wanted in all_looks.items():
        print(f"{kind}: {looks[kind] / wanted:.0%} of the candidates, for the best {BEST}")
        assert looks[kind] < 0.9 * wanted
