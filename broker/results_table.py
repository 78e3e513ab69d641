"""The results of a run for reading: percent, with half the width of the confidence interval."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from shared.metrics import LEVEL

TITLES = {
    "image_only": "reference image only",
    "text_only": "modification text only",
    "image_text_sum": "image + text",
    "coarse": "XR: imagined and fused",
    "verified": "XR: verified",
    "compared": "XR: compared",
}

Row = tuple[str, Mapping[str, str]]
"""Title, and its cells by column."""


def table(name: str, evaluation: Mapping[str, Any]) -> str:
    """What `evaluate_run` found: one line per stage, then the final stage by round and by tag."""
    last = evaluation["final_stage"]
    title = TITLES.get(last, last)
    lines = [name, f"protocol: {evaluation['protocol']}"]
    lines += [f"deviation: {deviation}" for deviation in evaluation["deviations"]]
    lines += ["", *_aligned(_methods(evaluation))]
    if rounds := evaluation["rounds"].get(last):
        lines += ["", f"{title}, by round", *_aligned(_by_round(rounds))]
    for tag, values in evaluation["by_tag"].items():
        lines += ["", f"{title}, by {tag}", *_aligned(_by_value(values, last))]
    if any(evaluation["intervals"].values()):
        lines += ["", f"± half the width of the {LEVEL:.0%} interval (bootstrap over queries)"]
    counts = ", ".join(f"{key.replace('_', ' ')} {n}" for key, n in evaluation["counts"].items())
    return "\n".join([*lines, "", counts, *evaluation.get("submissions", {}).get("notes", ()), ""])


def _methods(evaluation: Mapping[str, Any]) -> list[Row]:
    return [
        (
            TITLES.get(stage, stage),
            {
                **_cells(metrics, evaluation["intervals"].get(stage, {})),
                **(_rank_cells(evaluation["ranks"][stage]) if metrics else {}),
            },
        )
        for stage, metrics in evaluation["methods"].items()
    ]


def _rank_cells(rank: Mapping[str, Any]) -> dict[str, str]:
    """The median over all queries; the mean over those whose target was ranked at all."""
    median, mean = rank["median"], rank["mean"]
    return {
        "median rank": "-" if median is None else f"{median:g}",
        "mean rank if found": "-" if mean is None else f"{mean:.1f} ({rank['found']})",
    }


def _by_round(rounds: Iterable[Mapping[str, Any]]) -> list[Row]:
    return [
        (
            f"round {entry['round']} ({entry['dialogues']})",
            _cells(entry["metrics"], entry["intervals"]),
        )
        for entry in rounds
    ]


def _by_value(values: Mapping[str, Any], stage: str) -> list[Row]:
    return [
        (
            f"{value or '(none)'} ({entry['queries']})",
            _cells(entry["methods"].get(stage, {}), entry["intervals"].get(stage, {})),
        )
        for value, entry in values.items()
    ]


def _cells(
    metrics: Mapping[str, float], intervals: Mapping[str, Sequence[float]]
) -> dict[str, str]:
    return {name: _cell(value, intervals.get(name)) for name, value in metrics.items()}


def _cell(value: float, interval: Sequence[float] | None) -> str:
    if interval is None:
        return f"{100 * value:.2f}"
    low, high = interval
    return f"{100 * value:.2f} ±{50 * (high - low):.2f}"


def _aligned(rows: Sequence[Row]) -> list[str]:
    columns = list(dict.fromkeys(name for _, cells in rows for name in cells))
    if not columns:
        return ["  (no ground truth)"]
    width = max(len(title) for title, _ in rows)
    sizes = {
        name: max(len(name), *(len(cells.get(name, "")) for _, cells in rows)) for name in columns
    }
    lines = [" ".join([f"  {'':<{width}} ", *(f"{name:>{sizes[name]}}" for name in columns)])]
    for title, cells in rows:
        shown = (f"{cells.get(name, ''):>{sizes[name]}}" for name in columns)
        lines.append(" ".join([f"  {title:<{width}} ", *shown]).rstrip())
    return lines
