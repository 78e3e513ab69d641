"""What the HTTP API needs of the rest of the system, as interfaces, so that tests bring fakes."""

from __future__ import annotations

import threading
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, field
from typing import Annotated, Any, Protocol, cast

from fastapi import Depends, Request
from prometheus_client import CollectorRegistry

from broker.submission import Order
from gateway.access import Caller
from gateway.records import (
    AgentView,
    BenchmarkRequest,
    BenchmarkView,
    CoordinatorsView,
    DeadLetterView,
    GalleryImageList,
    GalleryList,
    GalleryUpdate,
    GalleryVersionList,
    GalleryView,
    QueryList,
    QueryView,
    RunComparison,
    SearchLoad,
    SearchRequest,
    SearchView,
)
from gateway.reports import RunReports
from gateway.watches import RunWatches
from shared.galleries import Gallery
from shared.settings import Settings


class Benchmarks(Protocol):
    """Benchmark jobs. Every method may raise redis' ConnectionError."""

    async def submit(
        self, request: BenchmarkRequest, idempotency_key: str = "", owner: str = ""
    ) -> str:
        """Queue a run; returns its id, the same one for the same non-empty key within a day.

        Args:
            owner: the API key it is submitted with; empty = none.

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

    async def files(self, benchmark_id: str) -> tuple[dict[str, Any], dict[str, Any]]:
        """The manifest and the metrics of a known run, each {} while it is not there."""

    async def queries(
        self, benchmark_id: str, stage: str, order: Order, page_size: int, token: str
    ) -> QueryList:
        """A page of a known run's queries. Raises: ApiError: it has none, or no such stage."""

    async def query(self, benchmark_id: str, query_id: str, k: int) -> QueryView:
        """One of them with its evidence. Raises: ApiError: no such query, or no answer to it."""

    async def compare(self, first: str, second: str, k: int | None) -> RunComparison:
        """Two known runs. Raises: ApiError: one is not finished, or they cannot be compared."""

    async def coordinators(self) -> CoordinatorsView:
        """The queue of benchmark jobs, and the processes that take them."""


class Galleries(Protocol):
    """Galleries by their keys or names. Every method raises ApiError where there is none."""

    async def create(
        self, name: str, dataset: str, caller: Caller, idempotency_key: str, uploaded: bool = False
    ) -> GalleryView:
        """Name a folder of images, "folder:PATH", and queue its index.

        Raises: ApiError: the name is taken, or there is no such folder.
        """

    async def views(self, caller: Caller, page_size: int, page_token: str) -> GalleryList:
        """A page of those the caller sees, last used first."""

    async def view(self, key: str, caller: Caller) -> GalleryView: ...

    async def images(
        self, key: str, caller: Caller, page_size: int, page_token: str
    ) -> GalleryImageList: ...

    async def delete(self, key: str, caller: Caller) -> None:
        """Raises: ApiError: benchmark runs refer to it."""

    def open(self, key: str, caller: Caller) -> Gallery:
        """Its listing; blocks. Raises: ApiError: its images are still being read."""

    def key_of(self, key: str, caller: Caller) -> str:
        """The key its content has; blocks. Raises: as `open`."""


class GalleryChanges(Protocol):
    """Changes of named galleries. Every method raises ApiError where there is no such gallery."""

    async def put(self, name: str, request: Request, caller: Caller, key: str) -> GalleryUpdate:
        """Add or replace the images of a form; `key` tells a repeated request."""

    async def remove(
        self, name: str, image_ids: Sequence[str], caller: Caller, key: str
    ) -> GalleryUpdate:
        """Raises: ApiError: one of them is not there, or none would be left."""

    async def refresh(self, name: str, caller: Caller) -> GalleryUpdate:
        """Bring in what has become of its server folder."""

    async def versions(
        self, name: str, caller: Caller, page_size: int, page_token: str
    ) -> GalleryVersionList:
        """A page of its versions, the current one first."""


class Searches(Protocol):
    """Interactive searches."""

    async def search(self, request: SearchRequest) -> SearchView:
        """One search, at priority over all benchmark work.

        Raises: ApiError: it cannot be done so, or too many are under way. TransientError: an agent
            is missing.
        """

    def stream(self, request: SearchRequest) -> AsyncIterator[SearchView]:
        """The coarse answer as soon as it is there, then the last one; raises as `search`."""

    def check_place(self) -> None:
        """Raises: ApiError: 429, as many searches are under way as may be."""

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

    async def redis_memory(self) -> tuple[int, int] | None:
        """Bytes in use and the limit (0 = none); None where this user of Redis may not ask."""


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
    galleries: Galleries
    gallery_changes: GalleryChanges
    watches: RunWatches
    registry: CollectorRegistry
    version: str
    draining: threading.Event = field(default_factory=threading.Event)


async def _services(request: Request) -> Services:
    return cast(Services, request.app.state.services)


ServicesDependency = Annotated[Services, Depends(_services)]
