"""`python -m tests.faults [CASE...]`: real processes, a real Redis, and one fault after another."""

from __future__ import annotations

import argparse
import signal
import sys
from collections.abc import Sequence
from pathlib import Path

# The order of the imports is the order of the cases.
# isort: off
from tests.faults import cases_kills, cases_engines, cases_redis  # noqa: F401
from tests.faults import cases_machine, cases_runs, cases_hostile, cases_demo  # noqa: F401

# isort: on
from tests.faults import page, report
from tests.faults.catalogue import CASES, Result, run_case
from tests.faults.workplace import DEMO, Workplace, write_demo


def main(arguments: Sequence[str] | None = None) -> int:
    """0, or 1 when a case has failed."""
    options = _options(arguments)
    signal.signal(signal.SIGTERM, lambda _number, _frame: sys.exit(143))  # stops what was started
    root = options.folder.absolute()
    measured_on = page.measured_on(options.seed)
    print(f"preparing in {root}: data, image database, undisturbed run ...", flush=True)
    write_demo(root / "data")
    workplace = Workplace(root, root / "data", DEMO, options.seed)
    workplace.prepare()
    print(f"undisturbed: {DEMO.queries} queries in {workplace.reference.seconds:.1f} s", flush=True)
    results: list[Result] = []
    for name in options.cases or CASES:
        result = run_case(CASES[name], workplace)
        results.append(result)
        print(report.line(result), flush=True)
    if options.report or not options.cases:
        former = page.section("cases") if options.cases else ""
        table = (
            report.measured_again(former, results, workplace, measured_on)
            if former
            else report.table(results, workplace, measured_on)
        )
        written = page.write_section("cases", table)
        print(f"written to {written}", flush=True)
    failed = [result.case.name for result in results if result.outcome.problems]
    print(f"{len(results)} cases, {len(failed)} failed{': ' if failed else ''}{', '.join(failed)}")
    return 1 if failed else 0


def _options(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.faults", description=__doc__)
    parser.add_argument("cases", nargs="*", metavar="CASE", help="all when none is named")
    parser.add_argument("--seed", type=int, default=7, help="when and whom it hits (%(default)s)")
    parser.add_argument(
        "--report",
        action="store_true",
        help="after chosen cases, put their rows in docs/reliability.md in place of the old ones",
    )
    parser.add_argument("--list", action="store_true", help="the cases, and nothing else")
    parser.add_argument(
        "--folder", type=Path, default=Path(".xr/faults"), help="to work in (%(default)s)"
    )
    options = parser.parse_args(arguments)
    if options.list:
        for case in CASES.values():
            print(f"{case.name:<22}{case.title}")
        raise SystemExit(0)
    unknown = [name for name in options.cases if name not in CASES]
    if unknown:
        parser.error(f"no case {', '.join(unknown)}; there are {', '.join(CASES)}")
    return options


if __name__ == "__main__":
    sys.exit(main())
