"""`make soak`: runs one after another for minutes, with models that cost next to nothing.

The whole system as `xr up` starts it. Measured from outside: messages per second, round trips of
probes that queue behind the runs' messages, queue depth, and the memory of every process and of
Redis after the warm-up and at the end.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import statistics
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from redis import Redis

from shared.bus import keys
from shared.bus.client import BusClient
from shared.bus.connection import connect
from shared.contracts.messages import RequestMessage
from shared.contracts.skills import ImagineText
from tests.benchmarks.bus import percentile
from tests.benchmarks.load_report import Figure, publish
from tests.faults.processes import AGENTS, resident_mb
from tests.faults.system import System
from tests.faults.watched_run import Task
from tests.faults.workplace import Workplace, write_demo

MOST_GROWTH_MB = 8.0
"""What allocators and caches round to; a leak of a message each would be far more."""
MOST_REDIS_GROWTH_MB = 1.0
"""What the records of finished runs take, which are kept for a week."""
_TASK = Task("demo", "val", 400, {"top_k": 30, "rank_depth": 100})
_WARM_UP_RUNS = 2
_SAMPLE_S = 1.0
_PROBE_INTERVAL_S = 0.1
_REPLY_TO = keys.reply("soak")


@dataclass
class Samples:
    """What was seen while the runs went on.

    Attributes:
        depths: messages in all streams, sampled every second.
        round_trips_ms: of the probes.
        coordinators_mb: run -> the largest memory of its coordinator process.
    """

    depths: list[int] = field(default_factory=list)
    round_trips_ms: list[float] = field(default_factory=list)
    coordinators_mb: list[float] = field(default_factory=list)


def main(arguments: Sequence[str] | None = None) -> int:
    """0, or with --strict 1 when a target was missed."""
    parser = argparse.ArgumentParser(
        prog="python -m tests.benchmarks.soak",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--minutes", type=float, default=10.0, help="(%(default)s)")
    parser.add_argument(
        "--folder", type=Path, default=Path(".xr/soak"), help="to work in (%(default)s)"
    )
    parser.add_argument("--strict", action="store_true", help="exit 1 when a target is missed")
    parser.add_argument("--no-report", action="store_true", help="leave docs/reliability.md alone")
    options = parser.parse_args(arguments)
    root = options.folder.absolute()
    write_demo(root / "data")
    workplace = Workplace(root, root / "data", _TASK, seed=7)
    with workplace.system("soak", call_ms=0.0, given={"XR_WINDOW": "32"}) as system:
        figures = soak(system, 60 * options.minutes)
    title = f"{options.minutes:g} minutes of benchmark runs"
    met = publish("soak", title, figures, report=not options.no_report)
    return 1 if options.strict and not met else 0


def soak(system: System, seconds: float) -> list[Figure]:
    """Warm up, then one run after another until the time is over."""
    for _ in range(_WARM_UP_RUNS):
        _run(system)
    _settle(system)
    memory_before, redis_before = _memory(system), _redis_memory(system)
    samples = Samples()
    began, messages_before = time.monotonic(), _messages_sent(system)
    runs = 0
    with _sampling(system, samples):
        while time.monotonic() - began < seconds:
            _run(system)
            runs += 1
            print(f"{time.monotonic() - began:.0f} s: {runs} runs", flush=True)
    took_s = time.monotonic() - began
    messages = _messages_sent(system) - messages_before
    _settle(system)
    memory_after, redis_after = _memory(system), _redis_memory(system)
    return [
        Figure("runs, queries", f"{runs}, {runs * _TASK.queries:,}"),
        Figure("messages per second", f"{messages / took_s:,.0f}"),
        Figure("queries per second", f"{runs * _TASK.queries / took_s:.1f}"),
        Figure(
            "round trip of a message behind the runs' own, p50",
            f"{statistics.median(samples.round_trips_ms):.0f} ms",
        ),
        Figure("the same, p99", f"{percentile(samples.round_trips_ms, 99):.0f} ms"),
        Figure(
            "messages in all queues, mean and most",
            f"{statistics.fmean(samples.depths):.0f}, {max(samples.depths)}",
        ),
        *_growth(memory_before, memory_after),
        _grown(
            "a run's coordinator, largest: first and last run",
            samples.coordinators_mb[0],
            samples.coordinators_mb[-1],
            MOST_GROWTH_MB,
        ),
        _grown("data in Redis, no run under way", redis_before, redis_after, MOST_REDIS_GROWTH_MB),
    ]


def _growth(before: dict[str, float], after: dict[str, float]) -> Iterator[Figure]:
    for name, began_mb in before.items():
        if name == "redis":  # its data are told apart; the rest is the allocator's
            yield Figure(f"memory of {name}", _change(began_mb, after.get(name, 0.0)))
        else:
            yield _grown(f"memory of {name}", began_mb, after.get(name, 0.0), MOST_GROWTH_MB)


def _grown(name: str, before: float, after: float, most: float) -> Figure:
    met = after - before <= most and after > 0
    return Figure(name, _change(before, after), f"<= +{most:g} MB", met)


def _change(before: float, after: float) -> str:
    return f"{before:.1f} -> {after:.1f} MB ({after - before:+.1f})"


def _run(system: System) -> None:
    """Raises: RuntimeError: the run did not finish."""
    view = system.client.submit(
        _TASK.dataset, _TASK.split, name="soak", knobs=_TASK.knobs, limit=_TASK.queries
    )
    for shown in system.client.follow(view.id, every_s=0.5):
        view = shown
    if view.state != "finished" or view.counts.get("failed"):
        raise RuntimeError(f"run {view.id} is {view.state}: {view.error} {view.counts}")


def _settle(system: System) -> None:
    """Until the run's coordinator process is gone and the queues are empty."""
    while system.pids("horse") or any(map(system.queued, AGENTS)):
        time.sleep(0.1)
    time.sleep(1.0)  # heartbeats and the last acknowledgements


def _memory(system: System) -> dict[str, float]:
    """Process kind -> resident MB (10^6 bytes)."""
    return {
        process.kind: resident_mb(process.pid) for process in system.processes() if process.kind
    }


def _redis_memory(system: System) -> float:
    with system.redis() as redis:
        return float(_info(redis, "memory")["used_memory_dataset"]) / 1e6


def _messages_sent(system: System) -> int:
    """Entries ever added to streams."""
    with system.redis() as redis:
        return int(_info(redis, "commandstats").get("cmdstat_xadd", {}).get("calls", 0))


def _info(redis: Redis, section: str) -> dict[str, Any]:
    return redis.info(section)


@contextlib.contextmanager
def _sampling(system: System, samples: Samples) -> Iterator[None]:
    """Probes and samples in two threads until the end of the block."""
    over = threading.Event()
    threads = [
        threading.Thread(target=_sample, args=(system, samples, over), daemon=True),
        threading.Thread(
            target=lambda: asyncio.run(_probe(system.redis_url, samples, over)), daemon=True
        ),
    ]
    for thread in threads:
        thread.start()
    try:
        yield
    finally:
        over.set()
        for thread in threads:
            thread.join()


def _sample(system: System, samples: Samples, over: threading.Event) -> None:
    largest_of: dict[int, float] = {}
    while not over.wait(_SAMPLE_S):
        samples.depths.append(sum(map(system.queued, AGENTS)))
        for pid in system.pids("horse"):
            largest_of[pid] = max(largest_of.get(pid, 0.0), resident_mb(pid))
    samples.coordinators_mb += largest_of.values()


async def _probe(url: str, samples: Samples, over: threading.Event) -> None:
    """One small message after the other, in the queue of the benchmark's messages."""
    redis = connect(url)
    bus = BusClient(redis, _REPLY_TO)
    try:
        while not over.is_set():
            began = time.perf_counter()
            number = len(samples.round_trips_ms)
            request = RequestMessage(
                message_id=f"soak/1/{number}/imagine_text/0",
                job_id="soak/1",
                query_id=str(number),
                reply_to=_REPLY_TO,
                body=ImagineText("make it red"),
            )
            await bus.send([request])
            while not await bus.receive(5.0):
                pass
            samples.round_trips_ms.append(1000 * (time.perf_counter() - began))
            await asyncio.sleep(_PROBE_INTERVAL_S)
    finally:
        await bus.aclose()
        await redis.aclose()


if __name__ == "__main__":
    sys.exit(main())
