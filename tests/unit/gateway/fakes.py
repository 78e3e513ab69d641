"""In-memory stand-ins for what the HTTP API works with."""

from __future__ import annotations

from dataclasses import dataclass

import httpx
import redis.exceptions

from gateway.errors import ApiError
from gateway.records import (
    TERMINAL_STATES,
    AgentView,
    BenchmarkRequest,
    BenchmarkView,
    DeadLetterView,
)
from shared.errors import PermanentError
from shared.settings import Settings


class FakeBenchmarks:
    """Runs that move only when a test moves them."""

    def __init__(self) -> None:
        self.runs: dict[str, BenchmarkView] = {}
        self.keys: dict[str, str] = {}
        self.redis_away = False

    def _check_redis(self) -> None:
        if self.redis_away:
            raise redis.exceptions.ConnectionError("Connection refused")

    async def submit(self, request: BenchmarkRequest, idempotency_key: str = "") -> str:
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


class FakeBoard:
    """Agents and dead letters as a test puts them."""

    def __init__(self) -> None:
        self.views = [
            AgentView(agent=agent, workers=[f"{agent}-1"], waiting=3, pending=1, dead=0)
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
    settings: Settings
