"""What the HTTP API needs of the rest of the system, as interfaces, so that tests bring fakes."""

from __future__ import annotations

import threading
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from typing import Annotated, Protocol, cast

from fastapi import Depends, Request
from prometheus_client import CollectorRegistry

from gateway.records import (
    AgentView,
    BenchmarkRequest,
    BenchmarkView,
    CoordinatorsView,
    DeadLetterView,
    SearchLoad,
    SearchRequest,
    SearchView,
)
from gateway.reports import RunReports
from shared.settings import Settings


class Benchmarks(Protocol):
    """Benchmark jobs. Every method may raise redis' ConnectionError."""

    async def submit(self, request: BenchmarkRequest, idempotency_key: str = "") -> str:
        """Queue a run; returns its id, the same one for the same non-empty key within a day.

        Raises: ApiError: unknown data set, split or knob.
        """

    async def view(self, benchmark_id: str) -> BenchmarkView | None:
        """One run as it is now, None when nobody knows it."""

    async def views(self) -> list[BenchmarkView]:
        """All known runs, newest first."""

    async def cancel(self, benchmark_id: str) -> BenchmarkView | None:
        """Stop a run (a finished one stays as it is), None when nobody knows it."""

    async def resume(self, benchmark_id: str) -> BenchmarkView | None:
        """Queue a failed or cancelled run again, None when nobody knows it.

        Raises: PermanentError: it is finished or under way.
        """

    async def coordinators(self) -> CoordinatorsView:
        """The queue of benchmark jobs, and the processes that take them."""


class Searches(Protocol):
    """Interactive searches."""

    async def search(self, request: SearchRequest) -> SearchView:
        """One search, at priority over all benchmark work.

        Raises: ApiError: it cannot be done so, or too many are under way. TransientError: an agent
            is missing.
        """

    def stream(self, request: SearchRequest) -> AsyncIterator[SearchView]:
        """The coarse answer as soon as it is there, then the last one; raises as `search`."""

    def load(self) -> SearchLoad:
        """How many searches are under way, and were."""

    async def aclose(self) -> None:
        """Hang up; searches under way end."""


class AgentBoard(Protocol):
    """Agents, their queues and dead letters. Every method may raise redis' ConnectionError."""

    async def agents(self) -> list[AgentView]:
        """Every agent type, also those without a living worker."""

    async def dead_letters(self, agent: str) -> list[DeadLetterView]:
        """What was given up, oldest first, at most `MOST_DEAD_LETTERS`."""

    async def retry(self, agent: str, entry_id: str) -> bool:
        """Queue a dead letter again; False when there is none of that id."""


@dataclass(frozen=True)
class Services:
    """Everything a route works with; one per application.

    Attributes:
        draining: set when the process was told to stop: it still answers, but wants no new work.
    """

    settings: Settings
    benchmarks: Benchmarks
    board: AgentBoard
    searches: Searches
    reports: RunReports
    registry: CollectorRegistry
    draining: threading.Event = field(default_factory=threading.Event)


def _services(request: Request) -> Services:
    return cast(Services, request.app.state.services)


ServicesDependency = Annotated[Services, Depends(_services)]
