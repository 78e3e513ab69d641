"""`make bench-similarity`: what ranking and embedding cost beside what they cannot do without.

Ranking: 64 queries of 4 texts (three imagined from the text, one from the image), all nine lists
(v1, v2, aug by visual, textual, hybrid), 100 rows each, over made-up galleries on disk. Every
method runs in one process on the same data, in turns; memory is measured in a process that only
ranks. Embedding: JPEGs through the whole backend beside the bare model on ready tensors.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tests.benchmarks.figures_file import add_output_options, measured_on, write_figures
from tests.benchmarks.ranking_cases import write_matrices
from tests.benchmarks.stack import ROOT

CASES = ((123_403, 512), (123_403, 768), (1_000_000, 512))
MOST_TIMES_THE_PRODUCT = 1.3
LEAST_TIMES_FASTER_THAN_SORTING = 10.0
MOST_MB_BESIDE_THE_MATRICES = 300.0
LEAST_OF_THE_BARE_MODEL = 0.85


def main(arguments: Sequence[str] | None = None) -> int:
    """0, or with --strict 1 when a target was missed."""
    options = _options(arguments)
    report: dict[str, Any] = {
        "manifest": {
            **measured_on(),
        },
        "ranking": [],
    }
    for rows, dimensions in options.cases:
        print(f"ranking {rows:,} x {dimensions} ...", file=sys.stderr, flush=True)
        with tempfile.TemporaryDirectory(dir=options.scratch) as name:
            write_matrices(Path(name), rows, dimensions, seed=0)
            measured = _child("ranking_cases", name, "compare")
            measured |= _child("ranking_cases", name, "memory")
            if (rows, dimensions) == options.cases[0]:
                report["interactive"] = _child("ranking_cases", name, "interactive")
            if (rows, dimensions) == options.cases[-1]:
                report["growth"] = _child("ranking_cases", name, "growth")
        report["ranking"].append({"rows": rows, "dimensions": dimensions, **measured})
    if not options.ranking_only:
        print("embedding ...", file=sys.stderr, flush=True)
        report["embedding"] = _child("embedding_case", str(options.images))
    lines, met = table(report)
    print("\n".join(lines))
    write_figures(options.output, report)
    return 1 if options.strict and not met else 0


def table(report: dict[str, Any]) -> tuple[list[str], bool]:
    """What was measured, for reading, and whether every target was met."""
    verdicts = []

    def verdict(met: bool) -> str:
        verdicts.append(met)
        return "met" if met else "MISSED"

    lines = [
        "| gallery | ranked | bare product (256 texts) | of 192 means | argsort | faiss | full sort"
        " | MB beside the matrices |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for case in report["ranking"]:
        times = [f"{case[name]:.2f}x" for name in ("argsort", "faiss", "full_sort")]
        lines.append(
            f"| {case['rows']:,} x {case['dimensions']} | {case['ranked_s']:.2f} s"
            f" | {case['to_product']:.2f} | {case['to_means_product']:.2f} | {' | '.join(times)}"
            f" | {case['beside_mb']:.0f} |"
        )
    lines += [
        f"{case['rows']:,} x {case['dimensions']}:"
        f" at most {MOST_TIMES_THE_PRODUCT} x the product:"
        f" {verdict(case['to_product'] <= MOST_TIMES_THE_PRODUCT)};"
        f" {LEAST_TIMES_FASTER_THAN_SORTING:.0f} x faster than the full sort:"
        f" {verdict(case['full_sort'] >= LEAST_TIMES_FASTER_THAN_SORTING)};"
        f" {MOST_MB_BESIDE_THE_MATRICES:.0f} MB beside the matrices:"
        f" {verdict(case['beside_mb'] <= MOST_MB_BESIDE_THE_MATRICES)}"
        for case in report["ranking"]
    ]
    one = report["interactive"]
    lines.append(
        f"one query over {report['ranking'][0]['rows']:,}: p50 {one['p50_ms']:.0f} ms,"
        f" p99 {one['p99_ms']:.0f} ms of {one['queries']} ({one['cores']} cores)"
    )
    growth = report["growth"]
    lines.append(
        f"time grows with rows^{growth['exponent']:.2f}"
        f" ({', '.join(f'{rows:,}: {s:.2f} s' for rows, s in growth['seconds'])})"
    )
    if "embedding" in report:
        lines += _embedding_lines(report["embedding"], verdict)
    return lines, all(verdicts)


def _embedding_lines(found: dict[str, Any], verdict: Any) -> list[str]:
    share = found["images_per_s"] / found["bare_images_per_s"]
    return [
        f"embedding {found['model']}: {found['images_per_s']:.1f} images/s, the bare model"
        f" {found['bare_images_per_s']:.1f}: {share:.2f} of it,"
        f" at least {LEAST_OF_THE_BARE_MODEL}: {verdict(share >= LEAST_OF_THE_BARE_MODEL)}",
        f"embedding {found['many']:,} images with a small model: {found['first_mb']:.0f} MB at most"
        f" over the first tenth, {found['peak_mb']:.0f} MB over all;"
        f" {found['many_per_s']:.0f} images/s",
    ]


def _child(module: str, *arguments: str) -> dict[str, Any]:
    """What `python -m tests.benchmarks.MODULE` prints, with as many threads as there are cores."""
    bounded = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")
    threads = dict.fromkeys(bounded, str(os.cpu_count() or 1))
    done = subprocess.run(
        [sys.executable, "-m", f"tests.benchmarks.{module}", *arguments],
        cwd=ROOT,
        env={**os.environ, **threads},
        capture_output=True,
        check=False,
    )
    if done.returncode:
        raise RuntimeError(done.stderr.decode())
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


def _options(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m tests.benchmarks.similarity",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--cases", nargs="+", default=CASES, type=_case, metavar="ROWSxDIMENSIONS")
    parser.add_argument("--images", type=int, default=20_000, help="embedded by the small model")
    parser.add_argument("--ranking-only", action="store_true")
    parser.add_argument("--scratch", type=Path, help="where the galleries are written")
    add_output_options(parser, "similarity")
    return parser.parse_args(arguments)


def _case(text: str) -> tuple[int, int]:
    rows, _, dimensions = text.partition("x")
    return int(rows), int(dimensions)


if __name__ == "__main__":
    sys.exit(main())
