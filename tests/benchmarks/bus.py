"""`make bench-bus`: the bus alone, and how throughput grows with the number of agent processes.

The bus alone: one worker process that echoes messages of 2 KB, beside a plain redis-py ping-pong
over two lists in the same run. Scaling: real agent processes whose model waits 50 ms a batch.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import itertools
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from redis import Redis

from shared.bus import keys
from shared.bus.client import BusClient
from shared.bus.connection import connect
from shared.contracts.messages import ReplyMessage, RequestMessage, encode
from shared.contracts.skills import ImagineText
from shared.redis_server import PrivateRedis
from tests.benchmarks.echo_worker import PLAIN_REPLIES, PLAIN_REQUESTS
from tests.benchmarks.load_report import Figure, publish
from tests.benchmarks.scaling import scaling_figures

MESSAGE_BYTES = 2048
FEWEST_PER_S = 4000.0
LONGEST_P50_MS = 2.0
_IN_FLIGHT = 512
_REPLY_TO = keys.reply("bench-bus")
_ROOT = Path(__file__).parents[2]


@dataclass(frozen=True)
class BusCost:
    """What the bus does with one worker process, beside plain redis-py.

    Attributes:
        per_s: messages answered per second, many under way.
        round_trips_ms: of messages sent one by one, sorted; `plain_ms` the same of plain lists.
    """

    per_s: float
    round_trips_ms: list[float]
    plain_ms: list[float]

    def figures(self) -> list[Figure]:
        p50, plain = statistics.median(self.round_trips_ms), statistics.median(self.plain_ms)
        plain_per_s = 1000 * len(self.plain_ms) / sum(self.plain_ms)
        return [
            Figure(
                f"messages of {MESSAGE_BYTES / 1024:g} KB per second, one worker process",
                f"{self.per_s:,.0f}",
                f">= {FEWEST_PER_S:,.0f}",
                self.per_s >= FEWEST_PER_S,
            ),
            Figure(
                "round trip, p50", f"{p50:.2f} ms", f"<= {LONGEST_P50_MS:g} ms",
                p50 <= LONGEST_P50_MS,
            ),
            Figure("round trip, p99", f"{percentile(self.round_trips_ms, 99):.2f} ms"),
            Figure("plain redis-py ping-pong (LPUSH, BRPOP), p50", f"{plain:.2f} ms"),
            Figure("round trip of the bus / of the plain ping-pong", f"{p50 / plain:.2f}"),
            Figure(
                "messages per second of the bus / of the plain ping-pong",
                f"{self.per_s / plain_per_s:.1f}",
            ),
        ]  # fmt: skip


def percentile(values: Sequence[float], percent: int) -> float:
    """Of sorted or unsorted values; at least two."""
    return statistics.quantiles(values, n=100)[percent - 1]


def measure_bus(seconds: float, round_trips: int) -> BusCost:
    """Three measurements on one private Redis, one after the other."""
    with (
        tempfile.TemporaryDirectory(prefix="xr-bus-") as folder,
        PrivateRedis(Path(folder)) as redis,
    ):
        with _worker("bus", redis.url):
            per_s, round_trips_ms = asyncio.run(_ask(redis.url, seconds, round_trips))
        with _worker("plain", redis.url):
            plain_ms = _ping_pong(redis.url, round_trips)
    return BusCost(per_s, round_trips_ms, plain_ms)


async def _ask(url: str, seconds: float, round_trips: int) -> tuple[float, list[float]]:
    redis = connect(url)
    bus = BusClient(redis, _REPLY_TO)
    numbers = itertools.count()
    try:
        await _one_by_one(bus, numbers, 50)  # the worker has started and is warm
        times_ms = await _one_by_one(bus, numbers, round_trips)
        await _many(bus, numbers, min(1.0, seconds))
        return await _many(bus, numbers, seconds), times_ms
    finally:
        await bus.aclose()
        await redis.aclose()


async def _one_by_one(bus: BusClient, numbers: Iterator[int], count: int) -> list[float]:
    times_ms = []
    for _ in range(count):
        began = time.perf_counter()
        await bus.send([_message(next(numbers))])
        while not await bus.receive(5.0):
            pass
        times_ms.append(1000 * (time.perf_counter() - began))
    return sorted(times_ms)


async def _many(bus: BusClient, numbers: Iterator[int], seconds: float) -> float:
    """Messages answered per second while `_IN_FLIGHT` of them are under way."""
    began = time.perf_counter()
    await bus.send([_message(next(numbers)) for _ in range(_IN_FLIGHT)])
    under_way, answered = _IN_FLIGHT, 0
    while under_way:
        replies: list[ReplyMessage] = await bus.receive(5.0)
        answered += len(replies)
        under_way -= len(replies)
        if time.perf_counter() - began < seconds:
            await bus.send([_message(next(numbers)) for _ in replies])
            under_way += len(replies)
    return answered / (time.perf_counter() - began)


def _message(number: int) -> RequestMessage:
    """A request whose bytes on the wire are `MESSAGE_BYTES`."""
    return _request(number, _TEXT)


def _request(number: int, text: str) -> RequestMessage:
    query_id = f"q{number:09d}"
    return RequestMessage(
        message_id=f"bench/1/{query_id}/imagine_text/0",
        job_id="bench/1",
        query_id=query_id,
        reply_to=_REPLY_TO,
        body=ImagineText(text),
    )


_TEXT = "x" * (MESSAGE_BYTES - len(encode(_request(0, "x" * 1000))) + 1000)


def _ping_pong(url: str, count: int) -> list[float]:
    payload = bytes(MESSAGE_BYTES)
    times_ms = []
    with Redis.from_url(url, socket_timeout=30.0) as redis:
        for number in range(count + 50):
            began = time.perf_counter()
            redis.lpush(PLAIN_REQUESTS, payload)
            redis.brpop([PLAIN_REPLIES], timeout=20)
            if number >= 50:
                times_ms.append(1000 * (time.perf_counter() - began))
    return sorted(times_ms)


@contextlib.contextmanager
def _worker(kind: str, url: str) -> Iterator[None]:
    command = [sys.executable, "-m", "tests.benchmarks.echo_worker", kind, url]
    process = subprocess.Popen(command, cwd=_ROOT)
    try:
        yield
    finally:
        process.kill()
        process.wait()


def main(arguments: Sequence[str] | None = None) -> int:
    """0, or with --strict 1 when a target was missed."""
    parser = argparse.ArgumentParser(
        prog="python -m tests.benchmarks.bus",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--seconds", type=float, default=10.0, help="per measurement (%(default)s)")
    parser.add_argument("--round-trips", type=int, default=2000, help="one by one (%(default)s)")
    parser.add_argument(
        "--processes", type=int, nargs="+", default=[1, 2, 4], help="of the agent (%(default)s)"
    )
    parser.add_argument("--only-bus", action="store_true", help="without the scaling")
    parser.add_argument("--strict", action="store_true", help="exit 1 when a target is missed")
    parser.add_argument("--no-report", action="store_true", help="leave docs/reliability.md alone")
    options = parser.parse_args(arguments)
    figures = measure_bus(options.seconds, options.round_trips).figures()
    met = publish("bus", "The bus alone", figures, report=not options.no_report)
    if not options.only_bus:
        figures = scaling_figures(options.processes, options.seconds)
        title = "Throughput by the number of agent processes"
        met &= publish("scaling", title, figures, report=not options.no_report)
    return 1 if options.strict and not met else 0


if __name__ == "__main__":
    sys.exit(main())
