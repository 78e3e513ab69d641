"""`make test-load`: a real gateway under more searches than it can answer, and many who watch.

Redis, coordinator, agents and gateway are processes of their own; the models cost next to nothing.
First searches one by one, then as many at once as come, then streams of a run's progress.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import os
import signal
import socket
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import httpx

from tests.benchmarks.engines import MODELS, RANKING
from tests.benchmarks.figures_file import add_output_options, measured_on, write_figures
from tests.benchmarks.http_load import Connection, Load, put_under_load, request_bytes
from tests.benchmarks.load_report import Figure, table
from tests.benchmarks.meters import cpu_of, read_call_meters
from tests.benchmarks.stack import ROOT, Stack, temporary_folder
from tests.benchmarks.workplace import DATASET, SPLIT, index_pictures, write_pictures

FEWEST_PER_S = 300.0
LONGEST_IDLE_MS = 25.0
STREAMS = 200

_HOST = "127.0.0.1"
_IMAGES = 1_000
_WARM_UP = 30
_HANG_S = 30.0
_START_S = 60.0
_PAUSE_S = 0.02
BEGIN, END = "<!-- written by `make test-load` -->", "<!-- end of gateway -->"


@dataclass(frozen=True)
class Idle:
    """Searches one by one.

    Attributes:
        times_ms: of each, as its caller sees it.
        models_ms: of one search on average: CPU time in the models and in ranking the gallery.
        gateway_ms: of one search on average: CPU time of the gateway's process.
        steps_ms: median of each step, from its first request to its last answer; steps overlap.
    """

    times_ms: list[float]
    models_ms: float
    gateway_ms: float
    steps_ms: dict[str, float]

    @property
    def above_models_ms(self) -> float:
        return statistics.median(self.times_ms) - self.models_ms


@dataclass(frozen=True)
class Watching:
    """Streams of one run.

    Attributes:
        ended: those whose last event was `done`.
        last_s: from the first stream's end to the last one's.
    """

    streams: int
    ended: int
    last_s: float


class Gateway:
    """`xr gateway` as a process of its own, over a stack that runs."""

    def __init__(self, stack: Stack, port: int, process: subprocess.Popen[bytes]) -> None:
        self.stack, self.port, self._process = stack, port, process
        self.http = httpx.Client(base_url=f"http://{_HOST}:{port}", timeout=_HANG_S)

    def cpu_s(self) -> float:
        return cpu_of(self._process.pid).own_s

    def submit(self, queries: int) -> str:
        body = {"dataset": DATASET, "split": SPLIT, "limit": queries}
        return str(self.http.post("/v1/benchmarks", json=body).raise_for_status().json()["id"])

    def wait_until_up(self) -> None:
        end = time.monotonic() + _START_S
        while self._process.poll() is None and time.monotonic() < end:
            with contextlib.suppress(httpx.TransportError):
                if self.http.get("/readyz").status_code == 200:
                    return
            time.sleep(0.1)
        raise RuntimeError(f"the gateway is not ready after {_START_S:.0f} s, or has ended")


@contextlib.contextmanager
def gateway_over(stack: Stack, folder: Path) -> Iterator[Gateway]:
    port = _free_port()
    given = {
        "XR_REDIS_URL": stack.settings.redis_url,
        "XR_HOME": str(stack.settings.home),
        "XR_DATA_ROOT": str(stack.settings.data_root),
        "XR_PROFILE": stack.settings.profile,
        "XR_GATEWAY_HOST": _HOST,
    }
    plain = {name: value for name, value in os.environ.items() if not name.startswith("XR_")}
    command = [sys.executable, "-m", "gateway.cli", "gateway", "--port", str(port)]
    with (folder / "gateway.log").open("wb") as log:
        process = subprocess.Popen(
            command, cwd=ROOT, env={**plain, **given}, stdout=log, stderr=log
        )
        gateway = Gateway(stack, port, process)
        try:
            gateway.wait_until_up()
            yield gateway
        finally:
            gateway.http.close()
            process.terminate()
            try:
                process.wait(10)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


def _free_port() -> int:
    with socket.socket() as listening:
        listening.bind((_HOST, 0))
        return int(listening.getsockname()[1])


async def measure_idle(gateway: Gateway, searches: Sequence[bytes]) -> Idle:
    """One search after the other on one connection, with a short pause between."""
    connection = await Connection.open(_HOST, gateway.port)
    meters, times_ms = gateway.stack.meters, []
    steps_s: dict[str, list[float]] = {}
    for request in searches[:_WARM_UP]:
        _check(await connection.ask(request))
    models_s = _models_s(meters)
    gateway_s = gateway.cpu_s()
    for request in searches[_WARM_UP:]:
        await asyncio.sleep(_PAUSE_S)
        began = time.perf_counter()
        answer = await connection.ask(request)
        times_ms.append(1000 * (time.perf_counter() - began))
        _check(answer)
        for step, seconds in json.loads(answer.body)["timings"].items():
            steps_s.setdefault(step, []).append(seconds)
    connection.close()
    count = len(times_ms)
    return Idle(
        times_ms,
        1000 * (_models_s(meters) - models_s) / count,
        1000 * (gateway.cpu_s() - gateway_s) / count,
        {step: 1000 * statistics.median(seconds) for step, seconds in steps_s.items()},
    )


def _models_s(meters: Path) -> float:
    return read_call_meters(meters, MODELS) + read_call_meters(meters, RANKING)


def _check(answer: Any) -> None:
    if answer.status != 200:
        raise RuntimeError(f"a search was answered {answer.status}: {answer.body[:500]!r}")


async def watch(gateway: Gateway, streams: int, queries: int) -> Watching:
    """Submit a run and follow it by so many streams at once, each on its own connection."""
    run = await asyncio.to_thread(gateway.submit, queries)
    request = request_bytes("GET", f"/v1/benchmarks/{run}/events")
    ends: list[float] = []

    async def follow() -> None:
        connection = await Connection.open(_HOST, gateway.port)
        with contextlib.suppress(OSError, ValueError, asyncio.IncompleteReadError):
            if await connection.last_event(request) == (200, "done"):
                ends.append(time.monotonic())
        connection.close()

    await asyncio.wait_for(asyncio.gather(*(follow() for _ in range(streams))), 600)
    return Watching(streams, len(ends), max(ends) - min(ends) if ends else 0.0)


def searches_of(gallery: str, data_root: Path, count: int) -> list[bytes]:
    """Requests for different images and texts, so that no cache answers."""
    lines = (data_root / DATASET.removeprefix("folder:") / "queries.jsonl").read_text().splitlines()
    queries = [json.loads(line) for line in lines]
    return [
        request_bytes(
            "POST",
            "/v1/search",
            {
                "gallery": gallery,
                "reference_image_id": queries[number % len(queries)]["reference"],
                "modification_text": f"{queries[number % len(queries)]['modification_text']}"
                f" ({number})",
            },
        )
        for number in range(count)
    ]


def figures(idle: Idle, load: Load, watching: Watching) -> list[Figure]:
    times = statistics.quantiles(idle.times_ms, n=100)
    accepted, refused = load.accepted_ms, load.refused_ms
    others = ", ".join(f"{count} x {what}" for what, count in load.others.items()) or "none"
    return [
        Figure(
            "searches answered or refused (429, Retry-After) per second",
            f"{load.per_s:,.0f}", f">= {FEWEST_PER_S:g}", load.per_s >= FEWEST_PER_S,
        ),
        Figure("of which answered per second", f"{len(accepted) / load.seconds:.1f}"),
        Figure("other answers, and hangs", others, "none", not load.others),
        Figure("time of a refusal, p50", _ms(refused)),
        Figure("time of an answer under that load, p50", _ms(accepted)),
        Figure(
            "idle search above its models' own time, p50",
            f"{idle.above_models_ms:.1f} ms", f"<= {LONGEST_IDLE_MS:g} ms",
            idle.above_models_ms <= LONGEST_IDLE_MS,
        ),
        Figure("idle search, p50 / p95", f"{times[49]:.1f} / {times[94]:.1f} ms"),
        Figure(
            "its steps, p50",
            ", ".join(f"{step} {spent_ms:.1f}" for step, spent_ms in idle.steps_ms.items()) + " ms",
        ),
        Figure("of which models and ranking, CPU", f"{idle.models_ms:.1f} ms"),
        Figure("of which the gateway's process, CPU", f"{idle.gateway_ms:.1f} ms"),
        Figure(
            f"progress streams that saw the end, of {watching.streams} at once",
            f"{watching.ended}", f"{watching.streams}", watching.ended == watching.streams,
        ),
        Figure("from the first stream's end to the last one's", f"{watching.last_s:.2f} s"),
    ]  # fmt: skip


def _ms(times_ms: Sequence[float]) -> str:
    return f"{statistics.median(times_ms):.1f} ms" if times_ms else "-"


def main(arguments: Sequence[str] | None = None) -> int:
    """0, or with --strict 1 when a target was missed."""
    options = _options(arguments)
    signal.signal(signal.SIGTERM, lambda _number, _frame: sys.exit(143))  # stops what was started
    with temporary_folder() as name:
        folder = Path(name)
        with Stack(folder, {}) as stack:
            settings = stack.settings
            write_pictures(settings.data_root, _IMAGES, max(options.queries, 1), settings.seed)
            gallery = index_pictures(settings, stack.identities()).key
            searches = searches_of(gallery, settings.data_root, _WARM_UP + options.searches)
            with gateway_over(stack, folder) as gateway:
                idle = asyncio.run(measure_idle(gateway, searches))
                load = asyncio.run(
                    put_under_load(
                        _HOST, gateway.port, searches[0],
                        options.connections, options.seconds, _HANG_S,
                    )
                )  # fmt: skip
                watching = asyncio.run(watch(gateway, options.streams, options.queries))
    found = figures(idle, load, watching)
    print(table(found))
    write_figures(options.output, _report(options, idle, load, watching))
    if options.page:
        _write_into(options.page, table(found))
    return 1 if options.strict and not all(figure.met for figure in found) else 0


def _report(
    options: argparse.Namespace, idle: Idle, load: Load, watching: Watching
) -> dict[str, Any]:
    return {
        "manifest": {
            **measured_on(),
            "images": _IMAGES,
            "connections": options.connections,
        },
        "idle": {**asdict(idle), "above_models_ms": idle.above_models_ms},
        "load": {**asdict(load), "per_s": load.per_s},
        "streams": asdict(watching),
    }


def _write_into(page: Path, text: str) -> None:
    """Put the table between its marks. Raises: ValueError: the page lacks them."""
    content = page.read_text(encoding="utf-8")
    before, rest = content.split(BEGIN)
    _, after = rest.split(END)
    cores = f"{os.cpu_count()} cores, {_IMAGES:,} images, everything on one machine."
    page.write_text(f"{before}{BEGIN}\n{text}\n\n{cores}\n{END}{after}", encoding="utf-8")


def _options(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m tests.benchmarks.load_gateway",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--searches", type=int, default=200, help="one by one (%(default)s)")
    parser.add_argument("--connections", type=int, default=200, help="under load (%(default)s)")
    parser.add_argument("--seconds", type=float, default=10.0, help="of load (%(default)s)")
    parser.add_argument("--streams", type=int, default=STREAMS, help="at once (%(default)s)")
    parser.add_argument(
        "--queries", type=int, default=200, help="of the run that is watched (%(default)s)"
    )
    parser.add_argument("--page", type=Path, help="write the table into this page, too")
    add_output_options(parser, "gateway")
    return parser.parse_args(arguments)


if __name__ == "__main__":
    sys.exit(main())
