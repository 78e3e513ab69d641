"""`make bench-overhead`: what a query costs beside the models, in CPU time, bytes and memory.

Real runs (RQ job, coordinator, bus, agents, run store) with models that cost next to nothing, over
galleries of several sizes. CPU time is read from the operating system, for each process.
"""

from __future__ import annotations

import argparse
import json
import signal
import sys
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from tests.benchmarks.figures_file import add_output_options, measured_on, write_figures
from tests.benchmarks.report import SizeCost, Verdict, judge, table
from tests.benchmarks.runs import CANDIDATES, QUESTIONS, idle_cost, measure_run
from tests.benchmarks.stack import Stack, temporary_folder
from tests.benchmarks.workplace import DIMENSIONS, index_pictures, write_pictures

SIZES = (1_000, 20_000, 123_000)
_WARM_UP_QUERIES = 50
_IDLE_S = 3.0


def main(arguments: Sequence[str] | None = None) -> int:
    """0, or with --strict 1 when a target was missed."""
    options = _options(arguments)
    signal.signal(signal.SIGTERM, lambda _number, _frame: sys.exit(143))  # stops what was started
    costs = []
    for size in options.sizes:
        print(f"{size:,} images ...", file=sys.stderr, flush=True)
        costs.append(measure_size(size, options.queries, options.few, _given_settings(options)))
    verdicts = judge(costs)
    print(table(costs, verdicts))
    write_figures(options.output, _report(options, costs, verdicts))
    return 1 if options.strict and not all(verdict.met for verdict in verdicts) else 0


def measure_size(images: int, queries: int, few: int, given: dict[str, str]) -> SizeCost:
    """Three runs over a gallery of `images`: one to warm up, one with `few` queries, the measured.

    The memory of the second and the third tells whether it grows with the queries.
    """
    with temporary_folder() as name:
        folder = Path(name)
        with Stack(folder, given) as stack:
            write_pictures(stack.settings.data_root, images, queries, stack.settings.seed)
            index_pictures(stack.settings, stack.identities())
            idle = idle_cost(stack, _IDLE_S)
            measure_run(stack, min(_WARM_UP_QUERIES, few))
            return SizeCost(
                images=images,
                idle=idle,
                short=measure_run(stack, few),
                run=measure_run(stack, queries),
                settings=stack.settings.masked(),
            )


def _options(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m tests.benchmarks.overhead",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "--sizes", type=int, nargs="+", default=SIZES, help="galleries, in images (%(default)s)"
    )
    parser.add_argument(
        "--queries", type=int, default=600, help="of the measured run (%(default)s)"
    )
    parser.add_argument(
        "--few", type=int, default=100, help="of the run its memory is compared with (%(default)s)"
    )
    parser.add_argument("--window", type=int, help="queries in flight (the setting's default)")
    parser.add_argument("--verify-chunk", type=int, help="candidates per message (likewise)")
    add_output_options(parser, "overhead")
    options = parser.parse_args(arguments)
    if not 0 < options.few < options.queries:
        parser.error(f"--few {options.few} must lie between 0 and --queries {options.queries}")
    if min(options.sizes) < CANDIDATES:
        parser.error(f"--sizes must be at least {CANDIDATES}: so many candidates are verified")
    return options


def _given_settings(options: argparse.Namespace) -> dict[str, str]:
    given = {"XR_WINDOW": options.window, "XR_VERIFY_CHUNK": options.verify_chunk}
    return {name: str(value) for name, value in given.items() if value is not None}


def _report(
    options: argparse.Namespace, costs: Sequence[SizeCost], verdicts: Sequence[Verdict]
) -> dict[str, Any]:
    return {
        "manifest": {
            **measured_on(),
            "candidates": CANDIDATES,
            "questions": QUESTIONS,
            "dimensions": DIMENSIONS,
            "queries": options.queries,
            "few_queries": options.few,
        },
        "sizes": [json.loads(json.dumps(asdict(cost))) for cost in costs],
        "targets": [asdict(verdict) for verdict in verdicts],
    }


if __name__ == "__main__":
    sys.exit(main())
