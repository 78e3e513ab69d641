"""Benchmark jobs as `broker.submission` runs them, in the words of the HTTP API."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import msgspec
from redis import Redis

from broker import submission
from gateway.errors import ApiError
from gateway.records import BenchmarkRequest, BenchmarkView, CoordinatorsView
from shared.datasets import known_datasets
from shared.errors import ConfigurationError, DatasetError
from shared.settings import Settings


class BrokerBenchmarks:
    """`gateway.ports.Benchmarks` over `broker.submission`, whose blocking calls get threads."""

    def __init__(self, settings: Settings, redis: Redis) -> None:
        self._settings = settings
        self._redis = redis

    async def submit(self, request: BenchmarkRequest, idempotency_key: str = "") -> str:
        wanted = submission.RunRequest(**request.model_dump())
        try:
            return await asyncio.to_thread(
                submission.submit_benchmark, self._redis, self._settings, wanted, idempotency_key
            )
        except DatasetError as error:
            known = list(known_datasets())
            raise ApiError(422, "unusable-dataset", str(error), known=known) from error
        except ConfigurationError as error:
            raise ApiError(422, "invalid-benchmark", str(error)) from error

    async def view(self, benchmark_id: str) -> BenchmarkView | None:
        return await self._known(submission.benchmark_status, benchmark_id)

    async def views(self) -> list[BenchmarkView]:
        views = await asyncio.to_thread(submission.list_benchmarks, self._redis, self._settings)
        return [_shown(view) for view in views]

    async def cancel(self, benchmark_id: str) -> BenchmarkView | None:
        return await self._known(submission.cancel_benchmark, benchmark_id)

    async def resume(self, benchmark_id: str) -> BenchmarkView | None:
        return await self._known(submission.resume_benchmark, benchmark_id)

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
