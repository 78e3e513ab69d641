"""Each image is asked about at one question worker, and nothing depends on that worker living."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager

import msgspec
from redis import Redis as BlockingRedis
from redis.asyncio import Redis

from broker.benchmark_run import coordinate
from broker.run_store import PREDICTIONS, RunRequest, run_folder
from broker.submission import submit_benchmark
from shared.bus.client import BusClient
from shared.bus.consumer import Consumer
from shared.contracts.messages import Failure, RequestMessage
from shared.contracts.skills import Result, VerifyImages
from shared.settings import Settings
from shared.tasks import stop_tasks
from tests.integration.broker.conftest import IDENTITY, IMAGES
from tests.integration.bus.scenes import until
from tests.unit.broker.fake_agents import FakeAgents

REQUEST = RunRequest(dataset="folder:pictures", split="all", name="routed", knobs={"top_k": 8})
LEASE_S = 1.0


class Worker:
    """A question worker; notes which rows' images it was asked about."""

    def __init__(self, redis: Redis, name: str) -> None:
        self.rows: list[int] = []
        self.answered = asyncio.Event()
        self._answer = FakeAgents(rows=IMAGES)
        self.consumer = Consumer(
            redis, "question", self._handle, worker=name,
            max_batch=4, lease_s=LEASE_S, identity=json.dumps(IDENTITY),
        )  # fmt: skip

    async def _handle(self, requests: Sequence[RequestMessage]) -> list[Result | Failure]:
        for request in requests:
            if isinstance(request.body, VerifyImages):
                self.rows += request.body.rows
        await asyncio.sleep(0.01)  # time for both to take part
        if self.rows:
            self.answered.set()
        return [self._answer(request) for request in requests]


@asynccontextmanager
async def working(redis: Redis, *question: str) -> AsyncIterator[list[Worker]]:
    """One worker of each other agent, and question workers of these names."""
    answer = FakeAgents(rows=IMAGES)

    async def handle(requests: Sequence[RequestMessage]) -> list[Result | Failure]:
        return [answer(request) for request in requests]

    others = [
        Consumer(redis, agent, handle, worker=agent, identity=json.dumps(IDENTITY))
        for agent in ("imagination", "similarity")
    ]
    workers = [Worker(redis, name) for name in question]
    consumers = [*others, *(worker.consumer for worker in workers)]
    tasks = {one.worker: asyncio.create_task(one.run(), name=one.worker) for one in consumers}
    await alive(redis, len(consumers))
    try:
        yield workers
    finally:
        for one in consumers:
            one.stop()
        await asyncio.wait(tasks.values(), timeout=10)


async def alive(redis: Redis, count: int) -> None:
    """Return once so many consumers have shown themselves."""
    bus = BusClient(redis, "xr:reply:tests")
    await until(lambda: _are_alive(bus, count))


async def _are_alive(bus: BusClient, count: int) -> bool:
    return len(await bus.live_agents()) == count


async def predictions(
    redis: Redis, blocking_redis: BlockingRedis, settings: Settings
) -> tuple[str, bytes]:
    """A run's id and what it predicts."""

    async def ignore(status: object) -> None:
        """Nobody watches."""

    run_id = await asyncio.to_thread(submit_benchmark, blocking_redis, settings, REQUEST)
    await coordinate(run_id, settings, redis, ignore)
    return run_id, (run_folder(settings.runs_folder, run_id) / PREDICTIONS).read_bytes()


def kept_share(workers: Sequence[Worker]) -> float:
    """Of all times an image was asked about, how often that was where it was asked about most."""
    rows = {row for worker in workers for row in worker.rows}
    kept = sum(max(worker.rows.count(row) for worker in workers) for row in rows)
    return kept / sum(len(worker.rows) for worker in workers)


async def test_an_image_is_asked_about_at_one_worker_in_all_runs(
    redis: Redis, blocking_redis: BlockingRedis, settings: Settings
) -> None:
    async with working(redis, "w1", "w2") as workers:
        of_run = [await predictions(redis, blocking_redis, settings) for _ in range(3)]
        assert all(worker.rows for worker in workers), "both have images of their own"
        assert kept_share(workers) >= 0.9
        one_run = sum(len(worker.rows) for worker in workers) / 3

    async with working(redis, "alone") as (alone,):
        _, undivided = await predictions(redis, blocking_redis, settings)
        assert len(alone.rows) == one_run, "nothing is asked twice"
    assert [predicted for _, predicted in of_run] == [undivided] * 3

    unrouted = msgspec.structs.replace(settings, route_images=False)
    async with working(redis, "w1", "w2") as workers:
        _, without = await predictions(redis, blocking_redis, unrouted)
        assert without == undivided
        assert all(worker.consumer.left == 0 for worker in workers)


async def test_a_worker_that_is_killed_takes_no_answer_along(
    redis: Redis, blocking_redis: BlockingRedis, settings: Settings
) -> None:
    async with working(redis, "alone"):
        _, undisturbed = await predictions(redis, blocking_redis, settings)

    async with working(redis, "w1", "w2") as (dying, living):
        run = asyncio.create_task(predictions(redis, blocking_redis, settings))
        await asyncio.wait_for(dying.answered.wait(), 20)
        await die(redis, dying.consumer)
        _, predicted = await asyncio.wait_for(run, 30)
        assert predicted == undisturbed
        _, again = await asyncio.wait_for(predictions(redis, blocking_redis, settings), 60)
        assert again == undisturbed
        assert set(living.rows) >= set(dying.rows), "its images are another's now"


async def die(redis: Redis, consumer: Consumer) -> None:
    """As a killed process: no word to anybody, and its last heartbeat stays for a while."""
    beat = await redis.get(f"xr:agents:{consumer.name}")
    (task,) = (one for one in asyncio.all_tasks() if one.get_name() == consumer.worker)

    async def nothing() -> None:
        """A killed process signs nothing off."""

    consumer._sign_off = nothing  # type: ignore[method-assign]
    await stop_tasks([task])
    await redis.set(f"xr:agents:{consumer.name}", beat or b"", ex=10)


async def test_a_worker_that_joins_gets_images_of_its_own(
    redis: Redis, blocking_redis: BlockingRedis, settings: Settings
) -> None:
    async with working(redis, "w1") as (first,):
        await predictions(redis, blocking_redis, settings)
        before = len(first.rows)
        joining = Worker(redis, "w2")
        task = asyncio.create_task(joining.consumer.run(), name="w2")
        await alive(redis, 4)
        await predictions(redis, blocking_redis, settings)
        assert joining.rows
        assert 0 < len(first.rows) - before < before
        assert not set(first.rows[before:]) & set(joining.rows)
        joining.consumer.stop()
        await asyncio.wait_for(task, 10)
