"""A small data set, a private Redis and agents without models behind the real bus."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import subprocess
import sys
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from pathlib import Path

import pytest
from PIL import Image
from redis import Redis as BlockingRedis
from redis.asyncio import Redis

from broker.rq_worker import connect_sync
from shared.bus.consumer import Consumer
from shared.contracts.messages import Failure, RequestMessage
from shared.contracts.skills import ProposeQuestions, Result
from shared.settings import Settings
from shared.tasks import stop_tasks
from tests.unit.broker.fake_agents import FakeAgents

IMAGES, QUERIES = 14, 9
IDENTITY = {"checkpoint": "models/fake-clip", "prompt.caption": "c1", "prompt.propose": "p1"}


@pytest.fixture
def settings(tmp_path: Path, redis_url: str) -> Settings:
    """Settings of a workplace with the data set folder:pictures."""
    return workplace(tmp_path, redis_url)


def workplace(folder: Path, redis_url: str) -> Settings:
    """The same for what is no fixture."""
    pictures = folder / "data" / "pictures"
    pictures.mkdir(parents=True)
    for n in range(IMAGES):
        Image.new("RGB", (8, 8), (16 * n, 255 - 16 * n, 90)).save(pictures / f"{n:02d}.png")
    (pictures / "12.png").write_bytes(b"this is no image")
    texts = [f"change {n}" for n in range(QUERIES - 1)] + ["refuse this"]
    lines = [
        {
            "query_id": f"q{n}",
            "reference": f"{n:02d}.png",
            "modification_text": text,
            "target_ids": [f"{n + 1:02d}.png"],
            "tags": {"level": str(n % 2)},
        }
        for n, text in enumerate(texts)
    ]
    (pictures / "queries.jsonl").write_text("\n".join(json.dumps(line) for line in lines))
    return Settings(
        redis_url=redis_url,
        home=folder / "home",
        data_root=folder / "data",
        window=3,
        verify_chunk=4,
    )


@pytest.fixture
def blocking_redis(redis_url: str) -> Iterator[BlockingRedis]:
    """What the gateway calls `broker.submission` with."""
    client = connect_sync(redis_url)
    yield client
    client.close()


class LiveAgents:
    """Consumers of all three agents in this event loop.

    Attributes:
        gate: proposing waits for it after `free` proposals.
        asked: ids of the messages that were worked on, in order.
        batch_s: how long every batch takes.
    """

    def __init__(self, redis: Redis) -> None:
        self.gate = asyncio.Event()
        self.gate.set()
        self.free = 0
        self.asked: list[str] = []
        self.batch_s = 0.0
        self.waiting_at_the_gate = asyncio.Event()
        self._redis = redis
        self._answer = FakeAgents(rows=IMAGES)
        self._tasks: list[asyncio.Task[None]] = []
        self._consumers: list[Consumer] = []

    def start(self, agent: str, identity: dict[str, str] = IDENTITY) -> None:
        consumer = Consumer(
            self._redis, agent, self._handle, worker=f"{agent}-{len(self._consumers)}",
            max_batch=4, identity=json.dumps(identity),
        )  # fmt: skip
        self._consumers.append(consumer)
        self._tasks.append(asyncio.create_task(consumer.run()))

    async def stop(self) -> None:
        self.gate.set()
        for consumer in self._consumers:
            consumer.stop()
        await asyncio.wait(self._tasks, timeout=5)
        await stop_tasks(self._tasks)

    async def _handle(self, requests: Sequence[RequestMessage]) -> list[Result | Failure]:
        for request in requests:
            if isinstance(request.body, ProposeQuestions) and not self.gate.is_set():
                self.free -= 1
                if self.free < 0:
                    self.waiting_at_the_gate.set()
                    await self.gate.wait()
        await asyncio.sleep(self.batch_s)
        self.asked += [request.message_id for request in requests]
        return [self._answer(request) for request in requests]


@pytest.fixture
async def agents(redis: Redis) -> AsyncIterator[LiveAgents]:
    live = LiveAgents(redis)
    for agent in ("imagination", "similarity", "question"):
        live.start(agent)
    yield live
    await live.stop()


Coordinator = Callable[..., "subprocess.Popen[bytes]"]


@pytest.fixture
def coordinator(settings: Settings, tmp_path: Path) -> Iterator[Coordinator]:
    """Starts `python -m broker` processes; whatever still runs at the end is stopped."""
    started: list[subprocess.Popen[bytes]] = []
    environment = {
        **os.environ,
        "XR_REDIS_URL": settings.redis_url,
        "XR_HOME": str(settings.home),
        "XR_DATA_ROOT": str(settings.data_root),
        "XR_WINDOW": str(settings.window),
    }
    log = (tmp_path / "coordinator.log").open("wb")

    def start(
        *arguments: str, file_limit_bytes: int | None = None, **more: str
    ) -> subprocess.Popen[bytes]:
        # Set by the shell, not between fork and exec, where locks of our threads may be held
        limit = [] if file_limit_bytes is None else ["prlimit", f"--fsize={file_limit_bytes}"]
        process = subprocess.Popen(
            [*limit, sys.executable, "-m", "broker", *arguments],
            env=environment | more, stdout=log, stderr=subprocess.STDOUT,
        )  # fmt: skip
        started.append(process)
        return process

    yield start
    for process in started:
        process.terminate()  # it stops the process it has forked, too
    for process in started:
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(10)
        with contextlib.suppress(ProcessLookupError):
            process.kill()
        process.wait()
    log.close()
