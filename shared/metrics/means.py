"""The unweighted mean of several runs, as FashionIQ's three categories are reported."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

Methods = Mapping[str, Mapping[str, float]]
"""method -> metric -> value."""


def mean_over_runs(runs: Sequence[Methods]) -> dict[str, dict[str, float]]:
    """Each metric's mean over runs, every run counting the same whatever its number of queries.

    Returns: the methods and metrics that all of the runs have.
    Raises: ValueError: no runs, or nothing all of them have.
    """
    if not runs:
        raise ValueError("there is no run to take the mean of")
    means = {
        method: {
            metric: math.fsum(run[method][metric] for run in runs) / len(runs)
            for metric in metrics
            if all(metric in run[method] for run in runs)
        }
        for method, metrics in runs[0].items()
        if all(method in run for run in runs)
    }
    found = {method: metrics for method, metrics in means.items() if metrics}
    if not found:
        raise ValueError("the runs have no method and metric in common")
    return found


def half_width_of_mean(intervals: Sequence[tuple[float, float]]) -> float:
    """Half the width of the mean's interval, for independent runs: √(Σ half widths²) / runs."""
    return math.sqrt(sum(((high - low) / 2) ** 2 for low, high in intervals)) / len(intervals)
