"""What a coordinator says about its own health, and its figures for Prometheus."""

from __future__ import annotations

import time
from collections.abc import Iterator

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector
from redis import Redis
from redis.exceptions import RedisError

from broker.rq_worker import BenchmarkWorker
from shared.settings import Settings

_READY_WITHIN_S = 30.0
_STUCK_AFTER_S = 300.0
_ANSWER_WITHIN_S = 2.0
_COUNTS = ("successful_job_count", "failed_job_count", "total_working_time")


class CoordinatorHealth(Collector):
    """Asked from the health server's threads, over a connection of its own."""

    def __init__(self, worker: BenchmarkWorker, settings: Settings) -> None:
        self._worker = worker
        self._redis = Redis.from_url(
            settings.redis_url,
            socket_timeout=_ANSWER_WITHIN_S,
            socket_connect_timeout=_ANSWER_WITHIN_S,
        )

    def why_not_alive(self) -> list[str]:
        """Empty, or why only a restart helps: Redis answers, but the worker says nothing to it."""
        silent_s = self._silent_s()
        if silent_s < _STUCK_AFTER_S or not self._redis_answers():
            return []
        return [f"no heartbeat for {silent_s:.0f} s, though Redis answers"]

    def why_not_ready(self) -> list[str]:
        """Empty, or why no run would be taken now."""
        silent_s = self._silent_s()
        if silent_s < _READY_WITHIN_S:
            return []
        return [f"Redis has taken no heartbeat for {silent_s:.0f} s"]

    def close(self) -> None:
        """Hang up."""
        self._redis.close()

    def exposition(self) -> bytes:
        """The text of /metrics."""
        registry = CollectorRegistry(auto_describe=False)
        registry.register(self)
        return generate_latest(registry)

    def collect(self) -> Iterator[Metric]:
        ready = GaugeMetricFamily("xr_coordinator_ready", "1 when /readyz is green.")
        ready.add_metric([], float(not self.why_not_ready()))
        yield ready
        try:
            found = self._redis.hmget(self._worker.key, _COUNTS)
        except RedisError:
            return
        finished, failed, working_s = (float(value or 0) for value in found)
        runs = CounterMetricFamily(
            "xr_coordinator_runs", "Jobs that ended since the start.", labels=["outcome"]
        )
        runs.add_metric(["finished"], finished)
        runs.add_metric(["failed"], failed)
        yield runs
        working = CounterMetricFamily("xr_coordinator_working_seconds", "Time spent on runs.")
        working.add_metric([], working_s)
        yield working

    def _silent_s(self) -> float:
        return time.monotonic() - self._worker.heard_s

    def _redis_answers(self) -> bool:
        try:
            return bool(self._redis.ping())
        except RedisError:
            return False
