"""Benchmark jobs as `broker.submission` runs them, in the words of the HTTP API."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any, TypeVar

import msgspec
from redis import Redis

from broker import submission
from gateway.errors import ApiError
from gateway.pages import page_of
from gateway.records import (
    BenchmarkRequest,
    BenchmarkView,
    CoordinatorsView,
    QueryList,
    QuerySummary,
    QueryView,
    RunComparison,
)
from shared.datasets import known_datasets
from shared.errors import ConfigurationError, DatasetError
from shared.settings import Settings

Found = TypeVar("Found")


class BrokerBenchmarks:
    """`gateway.ports.Benchmarks` over `broker.submission`, whose blocking calls get threads."""

    def __init__(self, settings: Settings, redis: Redis) -> None:
        self._settings = settings
        self._redis = redis

    async def submit(
        self, request: BenchmarkRequest, idempotency_key: str = "", owner: str = ""
    ) -> str:
        return await self.submit_run(
            submission.RunRequest(**request.model_dump(), owner=owner), idempotency_key
        )

    async def submit_run(self, wanted: submission.RunRequest, idempotency_key: str = "") -> str:
        """The same for what the API does not offer: the index of an uploaded gallery."""
        # The same key of two callers is two keys.
        idempotency_key = idempotency_key and f"{wanted.owner}/{idempotency_key}"
        try:
            return await asyncio.to_thread(
                submission.submit_benchmark, self._redis, self._settings, wanted, idempotency_key
            )
        except DatasetError as error:
            known = list(known_datasets())
            raise ApiError(422, "unusable-dataset", str(error), known=known) from error
        except ConfigurationError as error:
            raise ApiError(422, "invalid-benchmark", str(error)) from error

    async def is_untouched(self, benchmark_id: str) -> bool:
        """Whether a run waits for a coordinator to take it for the first time."""
        return await asyncio.to_thread(
            submission.is_untouched, self._redis, self._settings, benchmark_id
        )

    async def view(self, benchmark_id: str) -> BenchmarkView | None:
        return await self._known(submission.benchmark_status, benchmark_id)

    async def views(self) -> list[BenchmarkView]:
        views = await asyncio.to_thread(submission.list_benchmarks, self._redis, self._settings)
        return [_shown(view) for view in views]

    async def cancel(self, benchmark_id: str) -> BenchmarkView | None:
        return await self._known(submission.cancel_benchmark, benchmark_id)

    async def resume(self, benchmark_id: str) -> BenchmarkView | None:
        return await self._known(submission.resume_benchmark, benchmark_id)

    async def files(self, benchmark_id: str) -> tuple[dict[str, Any], dict[str, Any]]:
        return await asyncio.to_thread(submission.run_files, self._settings, benchmark_id)

    async def queries(
        self, benchmark_id: str, stage: str, order: submission.Order, page_size: int, token: str
    ) -> QueryList:
        found, shown = await self._told(self._sorted, benchmark_id, stage, order)
        page, following = page_of(shown, page_size, token)
        return QueryList(
            benchmark_id=benchmark_id,
            gallery=found.gallery,
            stages=list(found.stages),
            queries=[QuerySummary.model_validate(msgspec.to_builtins(one)) for one in page],
            total=len(shown),
            next_page_token=following,
        )

    def _sorted(
        self, benchmark_id: str, stage: str, order: submission.Order
    ) -> tuple[submission.RunQueries, list[submission.QueryRanks]]:
        found = submission.run_queries(self._settings, benchmark_id)
        return found, submission.in_order(found, order, stage)

    async def query(self, benchmark_id: str, query_id: str, k: int) -> QueryView:
        found = await self._told(
            submission.query_evidence, self._settings, benchmark_id, query_id, k
        )
        return QueryView.model_validate(msgspec.to_builtins(found))

    async def compare(self, first: str, second: str, k: int | None) -> RunComparison:
        found = await self._told(submission.diff_runs, self._settings, first, second, k)
        return RunComparison.model_validate(msgspec.to_builtins(found))

    async def _told(self, call: Callable[..., Found], *arguments: Any) -> Found:
        """A blocking call about runs that are there; what they lack becomes 404 or 409."""
        try:
            return await asyncio.to_thread(call, *arguments)
        except ConfigurationError as error:
            raise ApiError(404, "result-not-there", str(error)) from error
        except DatasetError as error:
            raise ApiError(409, "data-not-there", str(error)) from error

    async def coordinators(self) -> CoordinatorsView:
        now = await asyncio.to_thread(submission.coordinators_now, self._redis)
        return CoordinatorsView.model_validate(msgspec.to_builtins(now))

    async def _known(
        self, call: Callable[[Redis, Settings, str], submission.RunView], benchmark_id: str
    ) -> BenchmarkView | None:
        try:
            view = await asyncio.to_thread(call, self._redis, self._settings, benchmark_id)
        except ConfigurationError:  # "no such run" is all these raise of this kind
            return None
        return _shown(view)


def _shown(view: submission.RunView) -> BenchmarkView:
    return BenchmarkView.model_validate(msgspec.to_builtins(view))
