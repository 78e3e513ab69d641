"""What the HTTP API needs of the rest of the system, as interfaces, so that tests bring fakes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Protocol, cast

from fastapi import Depends, Request
from prometheus_client import CollectorRegistry

from gateway.records import AgentView, BenchmarkRequest, BenchmarkView, DeadLetterView
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


class AgentBoard(Protocol):
    """Agents, their queues and dead letters. Every method may raise redis' ConnectionError."""

    async def agents(self) -> list[AgentView]:
        """Every agent type, also those without a living worker."""

    async def dead_letters(self, agent: str) -> list[DeadLetterView]:
        """What was given up, oldest first."""

    async def retry(self, agent: str, entry_id: str) -> bool:
        """Queue a dead letter again; False when there is none of that id."""


@dataclass(frozen=True)
class Services:
    """Everything a route works with; one per application."""

    settings: Settings
    benchmarks: Benchmarks
    board: AgentBoard
    registry: CollectorRegistry


def _services(request: Request) -> Services:
    return cast(Services, request.app.state.services)


ServicesDependency = Annotated[Services, Depends(_services)]
