"""In-memory stand-ins for what the HTTP API works with."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import dataclass

import httpx
import redis.exceptions

from gateway.errors import ApiError
from gateway.ports import Services
from gateway.records import (
    TERMINAL_STATES,
    AgentView,
    BenchmarkRequest,
    BenchmarkView,
    CoordinatorsView,
    CoordinatorView,
    DeadLetterView,
    Hit,
    Imagination,
    Proposition,
    SearchLoad,
    SearchRequest,
    SearchView,
    WorkerView,
)
from shared.errors import PermanentError
from shared.settings import Settings


class FakeBenchmarks:
    """Runs that move only when a test moves them."""

    def __init__(self) -> None:
        self.runs: dict[str, BenchmarkView] = {}
        self.keys: dict[str, str] = {}
        self.coordinators_now = [
            CoordinatorView(name="c-1", state="busy", heartbeat_age_s=1.5, benchmark_id="run-1")
        ]
        self.redis_away = False

    def _check_redis(self) -> None:
        if self.redis_away:
            raise redis.exceptions.ConnectionError("Connection refused")

    async def submit(
        self, request: BenchmarkRequest, idempotency_key: str = "", owner: str = ""
    ) -> str:
        self._check_redis()
        if idempotency_key in self.keys:
            return self.keys[idempotency_key]
        if request.dataset != "demo":
            detail = f"unknown data set {request.dataset!r}; known: demo"
            raise ApiError(422, "unknown-dataset", detail, known=["demo"])
        benchmark_id = f"run-{len(self.runs) + 1}"
        self.runs[benchmark_id] = BenchmarkView(
            id=benchmark_id,
            dataset=request.dataset,
            split=request.split,
            name=request.name,
            state="queued",
            owner=owner,
        )
        if idempotency_key:
            self.keys[idempotency_key] = benchmark_id
        return benchmark_id

    async def view(self, benchmark_id: str) -> BenchmarkView | None:
        self._check_redis()
        return self.runs.get(benchmark_id)

    async def views(self) -> list[BenchmarkView]:
        self._check_redis()
        return list(reversed(self.runs.values()))

    async def coordinators(self) -> CoordinatorsView:
        self._check_redis()
        return CoordinatorsView(waiting=2, delayed=1, coordinators=self.coordinators_now)

    async def cancel(self, benchmark_id: str) -> BenchmarkView | None:
        self._check_redis()
        run = self.runs.get(benchmark_id)
        if run is not None and run.state not in TERMINAL_STATES:
            run = self.runs[benchmark_id] = run.model_copy(update={"state": "cancelled"})
        return run

    async def resume(self, benchmark_id: str) -> BenchmarkView | None:
        self._check_redis()
        run = self.runs.get(benchmark_id)
        if run is not None:
            if run.state not in ("failed", "cancelled"):
                raise PermanentError(f"run {benchmark_id} is {run.state}: nothing to resume")
            run = self.runs[benchmark_id] = run.model_copy(update={"state": "queued"})
        return run


class FakeSearches:
    """Finds what a test puts.

    Attributes:
        fails: raised instead.
        fails_later: raised in a stream after the coarse answer.
    """

    def __init__(self) -> None:
        self.asked: list[SearchRequest] = []
        self.fails: Exception | None = None
        self.fails_later: Exception | None = None
        self.closed = False
        self.full = False

    async def search(self, request: SearchRequest) -> SearchView:
        self.asked.append(request)
        if self.fails is not None:
            raise self.fails
        return SearchView(
            gallery="g", database="d", stage="verified", imagination=Imagination(),
            description="a red cup", hits=[Hit(rank=1, image_id="7", coarse_score=0.5)],
            propositions=[Proposition(question="is the cup red?", expected=True)], seconds=0.1,
        )  # fmt: skip

    async def stream(self, request: SearchRequest) -> AsyncIterator[SearchView]:
        view = await self.search(request)
        yield view.model_copy(update={"stage": "coarse", "complete": False})
        if self.fails_later is not None:
            raise self.fails_later
        yield view

    def check_place(self) -> None:
        if self.full:
            raise ApiError(429, "too-many-searches", "too many", retry_after_s=1)

    def load(self) -> SearchLoad:
        return SearchLoad(running=0, limit=64, answered=len(self.asked), refused=0, failed=0)

    async def aclose(self) -> None:
        self.closed = True


class FakeBoard:
    """Agents and dead letters as a test puts them."""

    async def redis_memory(self) -> tuple[int, int] | None:
        return 1_000, 4_000

    def __init__(self) -> None:
        self.views = [
            AgentView(
                agent=agent,
                workers=[f"{agent}-1"],
                waiting=3,
                pending=1,
                dead=0,
                oldest_age_s=1.5,
                details=[
                    WorkerView(
                        worker=f"{agent}-1",
                        ready=True,
                        in_flight=1,
                        busy_share=0.5,
                        batch_fill=0.25,
                        counts={"answered": 9, "redelivered": 2, "retried": 1},
                        caches={"texts": (6, 4)},
                    )
                ],
            )
            for agent in ("imagination", "similarity", "question")
        ]
        self.letters = {"question": [DeadLetterView(entry_id="1-0", reason="3 deliveries")]}
        self.redis_away = False

    def _check_redis(self) -> None:
        if self.redis_away:
            raise redis.exceptions.ConnectionError("Connection refused")

    async def agents(self) -> list[AgentView]:
        self._check_redis()
        return self.views

    async def dead_letters(self, agent: str) -> list[DeadLetterView]:
        self._check_redis()
        return list(self.letters.get(agent, []))

    async def retry(self, agent: str, entry_id: str) -> bool:
        self._check_redis()
        before = self.letters.get(agent, [])
        self.letters[agent] = [letter for letter in before if letter.entry_id != entry_id]
        return len(self.letters[agent]) < len(before)


@dataclass
class Api:
    """The application's client and what stands behind it."""

    http: httpx.AsyncClient
    benchmarks: FakeBenchmarks
    board: FakeBoard
    searches: FakeSearches
    settings: Settings
    services: Services
