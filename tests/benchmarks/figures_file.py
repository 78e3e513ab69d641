"""Where a benchmark's figures go: the options of all of them, the file, what it was measured on."""

from __future__ import annotations

import argparse
import datetime
import os
from pathlib import Path
from typing import Any

from broker.manifest import commit, versions
from shared import atomic_files


def add_output_options(parser: argparse.ArgumentParser, benchmark: str) -> None:
    """`--output`, by default a file of its own per run, and `--strict`."""
    now = datetime.datetime.now()
    parser.add_argument(
        "--output",
        type=Path,
        default=Path(f".xr/benchmarks/{benchmark}-{now:%Y%m%d-%H%M%S}.json"),
        help="where the figures go, with what they were measured on",
    )
    parser.add_argument("--strict", action="store_true", help="exit 1 when a target is missed")


def measured_on() -> dict[str, Any]:
    """What every benchmark's manifest begins with."""
    return {
        "measured_at": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "commit": commit(),
        "versions": versions(),
        "cores": os.cpu_count(),
        "load_average": os.getloadavg(),
    }


def write_figures(path: Path, figures: dict[str, Any]) -> None:
    """The figures as JSON; says where they are."""
    path.parent.mkdir(parents=True, exist_ok=True)
    atomic_files.write_json(path, figures)
    print(f"written to {path}")
