"""Throughput with 1, 2, 4 real agent processes whose model waits a fixed time per batch."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

from shared.bus import keys
from shared.bus.client import BusClient
from shared.bus.connection import connect
from shared.contracts.messages import RequestMessage
from shared.contracts.skills import ImagineText
from shared.redis_server import PrivateRedis
from tests.benchmarks.load_report import Figure
from tests.faults import engines

BATCH_MS = 50.0
MAX_BATCH = 8
LEAST_SHARE = 0.9
_AGENT = "imagination"
_REPLY_TO = keys.reply("bench-scaling")
_BATCHES_AHEAD = 4
_WARM_UP_S = 1.0
_START_TIMEOUT_S = 120.0
_ROOT = Path(__file__).parents[2]


def scaling_figures(processes: Sequence[int], seconds: float) -> list[Figure]:
    """One figure per number of processes; the shares are of so many times the first's rate."""
    figures = []
    alone: float | None = None
    for count in processes:
        rate = messages_per_s(count, seconds)
        alone = rate / count if alone is None else alone
        share = rate / (count * alone)
        figures.append(
            Figure(
                f"{count} agent processes, {BATCH_MS:g} ms per batch of {MAX_BATCH}",
                f"{rate:,.0f} messages/s, {share:.3f} of linear",
                f">= {LEAST_SHARE:g}",
                share >= LEAST_SHARE,
            )
        )
    return figures


def messages_per_s(processes: int, seconds: float) -> float:
    """Messages that so many agent processes answer per second while there is always work."""
    with tempfile.TemporaryDirectory(prefix="xr-scaling-") as name:
        folder = Path(name)
        with (
            PrivateRedis(folder / "redis") as redis,
            _agents(folder, redis.url, processes) as children,
        ):
            return asyncio.run(_ask(redis.url, processes, seconds, children))


@contextlib.contextmanager
def _agents(folder: Path, url: str, count: int) -> Iterator[list[subprocess.Popen[bytes]]]:
    profile = folder / "waiting.toml"
    profile.write_text(engines.profile(folder, BATCH_MS))
    plain = {name: value for name, value in os.environ.items() if not name.startswith("XR_")}
    variables = {
        "XR_REDIS_URL": url,
        "XR_HOME": str(folder / "home"),
        "XR_PROFILE": str(profile),
        "XR_MAX_BATCH": str(MAX_BATCH),
        "OMP_NUM_THREADS": "1",
    }
    children = []
    with (folder / "agents.log").open("wb") as log:
        for number in range(count):
            environment = {**plain, **variables, "XR_WORKER_NAME": f"agent-{number}"}
            children.append(
                subprocess.Popen(
                    [sys.executable, "-m", "agents", _AGENT],
                    cwd=_ROOT,
                    env=environment,
                    stdout=log,
                    stderr=log,
                )
            )
        try:
            yield children
        finally:
            for child in children:
                child.kill()
                child.wait()


async def _ask(
    url: str, processes: int, seconds: float, children: list[subprocess.Popen[bytes]]
) -> float:
    redis = connect(url)
    bus = BusClient(redis, _REPLY_TO)
    try:
        await _until_all_live(bus, processes, children)
        numbers = itertools.count()
        await bus.send(
            [_message(next(numbers)) for _ in range(processes * MAX_BATCH * _BATCHES_AHEAD)]
        )
        await _keep_asking(bus, numbers, _WARM_UP_S)
        return await _keep_asking(bus, numbers, seconds)
    finally:
        await bus.aclose()
        await redis.aclose()


async def _until_all_live(
    bus: BusClient, processes: int, children: list[subprocess.Popen[bytes]]
) -> None:
    end = time.monotonic() + _START_TIMEOUT_S
    while len(await bus.live_agents()) < processes:
        if time.monotonic() > end or any(child.poll() is not None for child in children):
            raise RuntimeError(f"not all of {processes} agents have started")
        await asyncio.sleep(0.1)


async def _keep_asking(bus: BusClient, numbers: Iterator[int], seconds: float) -> float:
    """A message for every answer; the rate of answers."""
    began = time.perf_counter()
    answered = 0
    while (now := time.perf_counter()) - began < seconds:
        replies = await bus.receive(1.0)
        answered += len(replies)
        await bus.send([_message(next(numbers)) for _ in replies])
    return answered / (now - began)


def _message(number: int) -> RequestMessage:
    return RequestMessage(
        message_id=f"scaling/1/{number}/imagine_text/0",
        job_id="scaling/1",
        query_id=str(number),
        reply_to=_REPLY_TO,
        body=ImagineText("make it red"),
    )
