"""What Prometheus reads of the system: queues, workers, coordinators, runs, anew at each scrape."""

from __future__ import annotations

from collections import Counter as Count
from collections.abc import Iterable, Sequence

from prometheus_client import CollectorRegistry
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from gateway.errors import REDIS_AWAY
from gateway.ports import Services
from gateway.records import AgentView, CoordinatorsView

_QUEUE_GAUGES = {
    "xr_queue_lag": ("waiting", "messages not taken yet"),
    "xr_queue_pending": ("pending", "messages being worked on"),
    "xr_queue_oldest_age_seconds": ("oldest_age_s", "age of the oldest message without an answer"),
    "xr_dead_letters": ("dead", "messages given up"),
    "xr_parked_messages": ("parked", "malformed messages set aside"),
}
_WORKER_GAUGES = {
    "xr_agent_ready": ("ready", "1 when real items pass through its model"),
    "xr_agent_in_flight": ("in_flight", "messages in hand"),
    "xr_agent_busy_share": ("busy_share", "share of the last half minute spent in its model"),
    "xr_agent_batch_fill": ("batch_fill", "messages per batch, as a share of the largest batch"),
}


class _Families(Collector):
    """Ready-made metric families as a collector."""

    def __init__(self, families: Sequence[Metric]) -> None:
        self._families = families

    def collect(self) -> Iterable[Metric]:
        return self._families


async def state_of_the_system(services: Services) -> CollectorRegistry:
    """All of it; without Redis only `xr_redis_up 0`, nothing stale."""
    registry = CollectorRegistry()
    redis_up = GaugeMetricFamily("xr_redis_up", "1 when Redis answers")
    draining = GaugeMetricFamily("xr_draining", "1 when this gateway is about to stop")
    draining.add_metric([], services.draining.is_set())
    families: list[Metric] = [redis_up, draining]
    try:
        agents = await services.board.agents()
        runs = await services.benchmarks.views()
        coordinators = await services.benchmarks.coordinators()
        memory = await services.board.redis_memory()
    except REDIS_AWAY:
        redis_up.add_metric([], 0)
    else:
        redis_up.add_metric([], 1)
        by_state = GaugeMetricFamily("xr_runs", "benchmark runs by state", labels=["state"])
        for state, number in Count(view.state for view in runs).items():
            by_state.add_metric([state], number)
        families += [*_of_agents(agents), by_state, *_of_coordinators(coordinators)]
        if memory is not None:
            families += _of_redis(*memory)
    registry.register(_Families(families))
    return registry


def _of_agents(agents: Sequence[AgentView]) -> Iterable[Metric]:
    depth = GaugeMetricFamily(
        "xr_queue_depth", "messages without an answer: the lag and those being worked on",
        labels=["agent"],
    )  # fmt: skip
    for view in agents:
        depth.add_metric([view.agent], view.waiting + view.pending)
    yield depth
    for name, (field, what) in _QUEUE_GAUGES.items():
        queue = GaugeMetricFamily(name, what, labels=["agent"])
        for view in agents:
            queue.add_metric([view.agent], getattr(view, field))
        yield queue
    living = GaugeMetricFamily("xr_agent_workers", "living workers", labels=["agent"])
    for view in agents:
        living.add_metric([view.agent], len(view.workers))
    yield living
    for name, (field, what) in _WORKER_GAUGES.items():
        gauge = GaugeMetricFamily(name, what, labels=["agent", "worker"])
        for view in agents:
            for worker in view.details:
                gauge.add_metric([view.agent, worker.worker], getattr(worker, field))
        yield gauge
    counted = dict.fromkeys(
        name for view in agents for worker in view.details for name in worker.counts
    )
    for name in counted:
        counter = CounterMetricFamily(
            f"xr_agent_{name}", f"{name.replace('_', ' ')}, since the worker's start",
            labels=["agent", "worker"],
        )  # fmt: skip
        for view in agents:
            for worker in view.details:
                if name in worker.counts:
                    counter.add_metric([view.agent, worker.worker], worker.counts[name])
        yield counter
    yield from _caches(agents)


def _caches(agents: Sequence[AgentView]) -> Iterable[Metric]:
    labels = ["worker", "cache"]
    hits = CounterMetricFamily("xr_agent_cache_hits", "values found in a cache", labels=labels)
    misses = CounterMetricFamily(
        "xr_agent_cache_misses", "values looked for in a cache and not found", labels=labels
    )
    # Agents that share a process share its caches: each process counts once.
    processes = {worker.worker: worker.caches for view in agents for worker in view.details}
    for worker, caches in processes.items():
        for cache, (found, missed) in caches.items():
            hits.add_metric([worker, cache], found)
            misses.add_metric([worker, cache], missed)
    yield from (hits, misses)


def _of_redis(used_bytes: int, limit_bytes: int) -> list[Metric]:
    used = GaugeMetricFamily("xr_redis_memory_bytes", "what Redis holds")
    used.add_metric([], used_bytes)
    limit = GaugeMetricFamily("xr_redis_memory_limit_bytes", "where Redis refuses; 0 = nowhere")
    limit.add_metric([], limit_bytes)
    return [used, limit]


def _of_coordinators(view: CoordinatorsView) -> Iterable[Metric]:
    jobs = GaugeMetricFamily("xr_benchmark_jobs", "benchmark jobs in the queue", labels=["state"])
    jobs.add_metric(["waiting"], view.waiting)
    jobs.add_metric(["delayed"], view.delayed)
    yield jobs
    age = GaugeMetricFamily(
        "xr_coordinator_heartbeat_age_seconds", "since a coordinator last said that it lives",
        labels=["coordinator"],
    )  # fmt: skip
    busy = GaugeMetricFamily(
        "xr_coordinator_busy", "1 when it works on a run", labels=["coordinator"]
    )
    for coordinator in view.coordinators:
        age.add_metric([coordinator.name], coordinator.heartbeat_age_s)
        busy.add_metric([coordinator.name], coordinator.state == "busy")
    yield from (age, busy)
