"""`make bench-image-database`: what building and opening an image database costs, by its size.

The build is a real one (RQ job, coordinator, bus, agents) with models that cost next to nothing;
the coordinator's memory is read from the operating system. The database that a similarity agent
is timed with is made up: random unit vectors and captions of 200 characters.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from broker.run_status import FINISHED
from broker.submission import RunRequest, benchmark_status, connect_sync, submit_benchmark
from shared.contracts.skills import Caption, Vector
from shared.galleries import Gallery, open_gallery
from shared.image_database_writer import ImageDatabaseWriter
from tests.benchmarks.figures_file import add_output_options, measured_on, write_figures
from tests.benchmarks.meters import anonymous_memory_mb, children_of, is_alive, peak_memory_mb
from tests.benchmarks.stack import ROOT, Stack, temporary_folder
from tests.benchmarks.workplace import DATASET, DIMENSIONS, SPLIT, write_pictures

SIZES = (1_000, 123_403)
"""The larger one is CIRCO's."""
MOST_SECONDS_TO_READY = 3.0
MOST_BYTES_PER_IMAGE = 400.0
"""By which the builder's memory grows with the gallery: a tenth of an image's two embeddings."""

_CHUNK_ROWS = 4096
_CAPTION_CHARACTERS = 200
_POLL_S = 0.02
_TIMEOUT_S = 3600.0


@dataclass(frozen=True)
class BuildCost:
    """One build through the agents, and one that finds everything there.

    Attributes:
        peak_anonymous_mb: the most memory the coordinator held for itself (10^6 bytes).
        peak_mb: the same with the pages of files it had mapped, which the system may take back.
        phases: phase -> seconds.
        again_s: seconds of the second build.
    """

    images: int
    peak_anonymous_mb: float
    peak_mb: float
    phases: dict[str, float]
    again_s: float


@dataclass(frozen=True)
class ReadyCost:
    """A similarity agent's first ranking, from a warm cache, in a process of its own."""

    images: int
    open_s: float
    first_ranking_s: float
    next_ranking_s: float
    peak_mb: float
    caption_characters: int

    @property
    def ready_s(self) -> float:
        return self.open_s + self.first_ranking_s


def main(arguments: Sequence[str] | None = None) -> int:
    """0, or with --strict 1 when a target was missed."""
    options = _options(arguments)
    signal.signal(signal.SIGTERM, lambda _number, _frame: sys.exit(143))  # stops what was started
    builds, agents = [], []
    for size in options.sizes:
        print(f"{size:,} images ...", file=sys.stderr, flush=True)
        with temporary_folder() as name, Stack(Path(name), {}) as stack:
            write_pictures(stack.settings.data_root, size, 1, stack.settings.seed)
            builds.append(measure_build(stack, size))
            agents.append(measure_ready_agent(stack, size))
    print(table(builds, agents))
    write_figures(options.output, _report(builds, agents))
    met = agents[-1].ready_s <= MOST_SECONDS_TO_READY
    met = met and bytes_per_image(builds) <= MOST_BYTES_PER_IMAGE
    return 1 if options.strict and not met else 0


def measure_build(stack: Stack, images: int) -> BuildCost:
    """Build the database through the queues, watching the coordinator; then build it again."""
    phases, peak_anonymous_mb, peak_mb = _index(stack)
    again, _, _ = _index(stack)
    return BuildCost(images, peak_anonymous_mb, peak_mb, phases, sum(again.values()))


def measure_ready_agent(stack: Stack, images: int) -> ReadyCost:
    """Time a similarity agent over a made-up database of the same gallery."""
    key = _make_up_database(stack, images)
    command = [sys.executable, "-m", "tests.benchmarks.ready_agent"]
    arguments = [str(stack.settings.image_db_folder), key]
    bounded = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")
    threads = dict.fromkeys(bounded, str(stack.settings.model_threads))  # as agents are started
    for _ in range(2):  # the first one warms the cache
        done = subprocess.run(
            [*command, *arguments],
            cwd=ROOT,
            env={**os.environ, **threads},
            capture_output=True,
            check=False,
        )
        if done.returncode:
            raise RuntimeError(done.stderr.decode())
    return ReadyCost(images, **json.loads(done.stdout))


def bytes_per_image(builds: Sequence[BuildCost]) -> float:
    """By how much the builder's own memory grows from the smallest gallery to the largest."""
    smallest, largest = builds[0], builds[-1]
    grown_mb = largest.peak_anonymous_mb - smallest.peak_anonymous_mb
    return grown_mb * 1e6 / max(largest.images - smallest.images, 1)


def table(builds: Sequence[BuildCost], agents: Sequence[ReadyCost]) -> str:
    """What was measured, in lines for reading."""
    lines = []
    for build, agent in zip(builds, agents, strict=True):
        phases = ", ".join(f"{name} {seconds:.1f} s" for name, seconds in build.phases.items())
        lines += [
            f"{build.images:,} images",
            f"  build        {phases}; found finished {build.again_s:.1f} s",
            f"  builder      {build.peak_anonymous_mb:.0f} MB of its own,"
            f" {build.peak_mb:.0f} MB with mapped files, at most",
            f"  ready agent  {agent.ready_s:.2f} s: opened {agent.open_s:.2f} s,"
            f" first ranking {agent.first_ranking_s:.2f} s, the next {agent.next_ranking_s:.2f} s",
        ]
    slowest, growth = agents[-1].ready_s, bytes_per_image(builds)
    return "\n".join(
        [
            *lines,
            f"ready agent within {MOST_SECONDS_TO_READY:.0f} s: {slowest:.2f} s,"
            f" {_verdict(slowest <= MOST_SECONDS_TO_READY)}",
            f"builder's memory within {MOST_BYTES_PER_IMAGE:.0f} bytes an image: {growth:.0f},"
            f" {_verdict(growth <= MOST_BYTES_PER_IMAGE)}",
        ]
    )


def _index(stack: Stack) -> tuple[dict[str, float], float, float]:
    """Seconds by phase of one index run, and the coordinator's peak memory, own and in all (MB)."""
    worker = stack.process_ids()["coordinator"]
    with contextlib.closing(connect_sync(stack.settings.redis_url)) as redis:
        request = RunRequest(dataset=DATASET, split=SPLIT, name="index", index_only=True)
        run_id = submit_benchmark(redis, stack.settings, request)
        end = time.monotonic() + _TIMEOUT_S
        peak_anonymous_mb = peak_mb = 0.0
        while (view := benchmark_status(redis, stack.settings, run_id)).state != FINISHED:
            stack.check()
            if view.error or time.monotonic() > end:
                raise RuntimeError(f"{view.error}\n{stack.end_of_log('coordinator')}")
            for child in children_of(worker):
                for _ in range(10):  # the status is asked for less often than the memory
                    if is_alive(child):
                        peak_anonymous_mb = max(peak_anonymous_mb, anonymous_memory_mb(child))
                        peak_mb = max(peak_mb, peak_memory_mb(child))
                    time.sleep(_POLL_S)
    while children_of(worker):
        time.sleep(_POLL_S)
    phases = {str(phase["phase"]): float(phase["seconds"]) for phase in view.progress}
    return phases, peak_anonymous_mb, peak_mb


def _make_up_database(stack: Stack, images: int) -> str:
    settings = stack.settings
    (folder,) = (path for path in settings.galleries_folder.iterdir() if path.is_dir())
    gallery: Gallery = open_gallery(settings.galleries_folder, folder.name)
    writer = ImageDatabaseWriter(
        settings.image_db_folder, gallery, {"made": "up"}, {"made": "up"}, _CHUNK_ROWS
    )
    draw = np.random.default_rng(settings.seed)
    for rows in writer.missing_image_embeddings():
        writer.add_image_embeddings(rows, _unit_vectors(draw, len(rows)))
    for rows in writer.missing_captions():
        chunk = writer.add_captions(rows, [Caption(_caption(row)) for row in rows])
        writer.add_caption_embeddings(chunk.rows, _unit_vectors(draw, len(chunk.rows)))
    return writer.finish().key


def _unit_vectors(draw: np.random.Generator, count: int) -> list[Vector]:
    vectors = draw.standard_normal((count, DIMENSIONS), dtype=np.float32)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    return [Vector(vector.astype("<f4").tobytes()) for vector in vectors]


def _caption(row: int) -> str:
    return f"photograph {row} of two dogs beside a table; ".ljust(_CAPTION_CHARACTERS, "x")


def _verdict(met: bool) -> str:
    return "met" if met else "MISSED"


def _report(builds: Sequence[BuildCost], agents: Sequence[ReadyCost]) -> dict[str, Any]:
    return {
        "manifest": {
            **measured_on(),
            "dimensions": DIMENSIONS,
        },
        "builds": [asdict(build) for build in builds],
        "ready_agents": [asdict(agent) for agent in agents],
    }


def _options(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m tests.benchmarks.image_database",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "--sizes", type=int, nargs="+", default=SIZES, help="galleries, in images (%(default)s)"
    )
    add_output_options(parser, "image-database")
    options = parser.parse_args(arguments)
    options.sizes = sorted(options.sizes)
    if options.sizes[0] < 100:
        parser.error("--sizes must be at least 100: so many rows are ranked")
    return options


if __name__ == "__main__":
    sys.exit(main())
