"""An agent process's figures in Prometheus' format."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    Metric,
)
from prometheus_client.registry import Collector

from agents.caching import counted_caches
from agents.health import Health
from shared.bus.consumer import Consumer

_COUNTERS = {
    "answered": ("messages", "Requests answered, as failures too."),
    "failures": ("failures", "Requests answered with a failure."),
    "redelivered": ("redelivered", "Messages taken over from workers that died or froze."),
    "retried": ("retried", "Requests asked before, without an answer or with a passing failure."),
    "dead_lettered": ("dead_lettered", "Messages given up."),
    "parked": ("parked", "Malformed messages set aside."),
    "late": ("late", "Answers not recorded, as somebody else had taken the message over."),
    "handed_back": ("handed_back", "Messages let go of unanswered when stopping."),
    "too_new": ("too_new", "Times a message was left to workers of a newer schema version."),
    "left": ("left", "Times a message was left to the worker that has seen its images."),
}


def exposition(health: Health) -> bytes:
    """The text of /metrics."""
    registry = CollectorRegistry(auto_describe=False)
    registry.register(_Figures(health))
    return generate_latest(registry)


class _Figures(Collector):
    """Reads the consumers' own counts when asked: counting costs the bus nothing."""

    def __init__(self, health: Health) -> None:
        self._health = health

    def collect(self) -> Iterator[Metric]:
        consumers = self._health.consumers
        ready = GaugeMetricFamily("xr_agent_ready", "1 when /readyz is green.")
        ready.add_metric([], float(not self._health.why_not_ready()))
        yield ready
        for name, (attribute, help_text) in _COUNTERS.items():
            counter = CounterMetricFamily(f"xr_agent_{name}", help_text, labels=["agent"])
            for consumer in consumers:
                counter.add_metric([consumer.agent], getattr(consumer, attribute))
            yield counter
        yield from _work(consumers)
        yield from _spent(self._health.spent)
        yield from _caches()


def _work(consumers: Sequence[Consumer]) -> Iterator[Metric]:
    in_flight = GaugeMetricFamily("xr_agent_in_flight", "Messages in hand.", labels=["agent"])
    busy = CounterMetricFamily(
        "xr_agent_busy_seconds", "Seconds spent on batches; its rate is the busy share.",
        labels=["agent"],
    )  # fmt: skip
    asked = CounterMetricFamily(
        "xr_agent_batch_messages", "Messages in batches; over the batches it is the batch fill.",
        labels=["agent"],
    )  # fmt: skip
    largest = GaugeMetricFamily("xr_agent_max_batch", "What a full batch holds.", labels=["agent"])
    idle = GaugeMetricFamily(
        "xr_agent_seconds_since_last_batch", "Time since the last batch ended.", labels=["agent"]
    )
    seconds = HistogramMetricFamily("xr_agent_batch_seconds", "Time of a batch.", labels=["agent"])
    for consumer in consumers:
        label, work = [consumer.agent], consumer.work
        in_flight.add_metric(label, consumer.in_flight)
        busy.add_metric(label, work.busy_s)
        asked.add_metric(label, work.messages)
        largest.add_metric(label, consumer.max_batch)
        buckets, total_s = work.batch_seconds()
        seconds.add_metric(label, [(bound, float(count)) for bound, count in buckets], total_s)
        if work.last_ended_s is not None:
            idle.add_metric(label, time.monotonic() - work.last_ended_s)
    yield from (in_flight, busy, asked, largest, idle, seconds)


def _spent(spent: Mapping[str, Mapping[str, float]]) -> Iterator[Metric]:
    for name in sorted({name for costs in spent.values() for name in costs}):
        counter = CounterMetricFamily(
            f"xr_agent_model_{name.removeprefix('model_')}",
            "What answering has cost, caches included, since the start.",
            labels=["agent"],
        )
        for agent, costs in spent.items():
            counter.add_metric([agent], costs.get(name, 0))
        yield counter


def _caches() -> Iterator[Metric]:
    hits = CounterMetricFamily("xr_agent_cache_hits", "Values found in a cache.", labels=["cache"])
    misses = CounterMetricFamily(
        "xr_agent_cache_misses", "Values looked for in a cache and not found.", labels=["cache"]
    )
    for name, (found, missed) in counted_caches().items():
        hits.add_metric([name], found)
        misses.add_metric([name], missed)
    yield from (hits, misses)
