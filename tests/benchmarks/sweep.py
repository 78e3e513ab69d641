"""`make bench-sweep`: how long a study takes, and whether its figures are those of replays.

A real run of all demo queries (RQ job, coordinator, bus, agents) with models that cost next to
nothing is recorded; `xr sweep` then computes every combination in a process of its own. What models
answer does not matter to the cost: a study reads answers, whoever gave them.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import resource
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from broker.run_status import FINISHED
from broker.run_studies import replay_run
from broker.submission import RunRequest, benchmark_status, connect_sync, submit_benchmark
from broker.sweep import Grid, combinations
from gateway.commands.demo import DATASET, SPLIT, write_demo_data
from shared.knobs import from_mapping, to_mapping
from shared.settings import Settings
from tests.benchmarks.figures_file import add_output_options, measured_on, write_figures
from tests.benchmarks.stack import ROOT, Stack, temporary_folder

GRID = Grid(
    fusions=("rrf", "sum", "interleave", "none"),
    text_weights=(0.0, 0.1, 0.15, 0.3, 0.5, 0.75, 1.0),
    num_questions=(1, 2, 3, 4, 5),
)
KNOBS = {"top_k": 100, "num_questions": 5}
MOST_SECONDS = 30.0

_REPLAYED = 20
_TIMEOUT_S = 600.0
_POLL_S = 0.1


class Study(NamedTuple):
    """What one `xr sweep` took, and what it found."""

    queries: int
    seconds: float
    cpu_s: float
    peak_mb: float
    rows: list[dict[str, Any]]


def main(arguments: Sequence[str] | None = None) -> int:
    """0; 1 when a figure is not that of its replay or, with --strict, when it took too long."""
    options = _options(arguments)
    signal.signal(signal.SIGTERM, lambda _number, _frame: sys.exit(143))  # stops what was started
    with temporary_folder() as name, Stack(Path(name), {}) as stack:
        settings = stack.settings
        write_demo_data(settings.data_root / DATASET, options.seed)
        run = _recorded(stack)
        study = _swept(settings, run)
        knobs = combinations(from_mapping(KNOBS), GRID)
        drawn = sorted(random.Random(options.seed).sample(range(len(knobs)), options.replays))
        differing = [
            place
            for place in drawn
            if _replayed(settings, run, to_mapping(knobs[place])) != _metrics(study.rows[place])
        ]
    met = study.seconds <= MOST_SECONDS
    print(_table(study, met, len(drawn), len(differing)))
    write_figures(options.output, _report(study, drawn, differing))
    return 1 if differing or (options.strict and not met) else 0


def _recorded(stack: Stack) -> str:
    """The id of a finished run of every demo query."""
    with connect_sync(stack.settings.redis_url) as redis:
        request = RunRequest(dataset=DATASET, split=SPLIT, name="study", knobs=KNOBS)
        run = submit_benchmark(redis, stack.settings, request)
        end = time.monotonic() + _TIMEOUT_S
        while (view := benchmark_status(redis, stack.settings, run)).state != FINISHED:
            stack.check()
            if view.error or time.monotonic() > end:
                raise RuntimeError(f"run {run} is {view.state}: {view.error}")
            time.sleep(_POLL_S)
    return run


def _swept(settings: Settings, run: str) -> Study:
    """`xr sweep` over the whole grid, timed from the start of its process to its end."""
    command = [
        sys.executable, "-m", "gateway.cli", "sweep", run, "--json",
        "--fusion", ",".join(GRID.fusions),
        "--text-weight", ",".join(map(str, GRID.text_weights)),
        "--num-questions", ",".join(map(str, GRID.num_questions)),
    ]  # fmt: skip
    plain = {name: value for name, value in os.environ.items() if not name.startswith("XR_")}
    given = {"XR_HOME": str(settings.home), "XR_DATA_ROOT": str(settings.data_root)}
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    began = time.monotonic()
    done = subprocess.run(
        command, cwd=ROOT, env={**plain, **given}, capture_output=True, text=True, check=True
    )
    seconds = time.monotonic() - began
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    report = json.loads(done.stdout)
    return Study(
        queries=report["queries"],
        seconds=seconds,
        cpu_s=after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime,
        peak_mb=after.ru_maxrss * 1024 / 1e6,
        rows=report["rows"],
    )


def _replayed(settings: Settings, run: str, knobs: Mapping[str, Any]) -> dict[str, float]:
    report = replay_run(settings, run, knobs, name="check")
    found = {
        f"{stage}.{metric}": value
        for stage in ("coarse", "verified")
        for metric, value in report.metrics[stage].items()
    }
    return {**found, "coverage": report.coverage}


def _metrics(row: Mapping[str, Any]) -> dict[str, float]:
    return {name: value for name, value in row.items() if "." in name or name == "coverage"}


def _table(study: Study, met: bool, replays: int, differing: int) -> str:
    verdict = "met" if met else "MISSED"
    grid = f"{len(GRID.fusions)} fusions, {len(GRID.text_weights)} λ, {len(GRID.num_questions)} |Q|"
    return "\n".join(
        [
            "| | |",
            "|---|---|",
            f"| combinations | {len(study.rows)}: {grid} |",
            f"| queries | {study.queries} |",
            f"| seconds, whole command (aimed at: {MOST_SECONDS:.0f}, {verdict}) |"
            f" {study.seconds:.1f} |",
            f"| CPU seconds | {study.cpu_s:.1f} |",
            f"| peak memory, MB | {study.peak_mb:.0f} |",
            f"| combinations replayed one by one, with other figures | {replays}, {differing} |",
        ]
    )


def _report(study: Study, drawn: Sequence[int], differing: Sequence[int]) -> dict[str, Any]:
    return {
        "manifest": {
            **measured_on(),
            "knobs": KNOBS,
            "grid": GRID._asdict(),
        },
        **study._asdict(),
        "replayed": list(drawn),
        "differing": list(differing),
    }


def _options(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m tests.benchmarks.sweep",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "--replays",
        type=int,
        default=_REPLAYED,
        help="combinations that are also replayed one by one, drawn by the seed (%(default)s)",
    )
    parser.add_argument("--seed", type=int, default=7, help="of the demo data (%(default)s)")
    add_output_options(parser, "sweep")
    options = parser.parse_args(arguments)
    if not 0 <= options.replays <= len(combinations(from_mapping(KNOBS), GRID)):
        parser.error(f"--replays {options.replays}: there are not so many combinations")
    return options


if __name__ == "__main__":
    sys.exit(main())
