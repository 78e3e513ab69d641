"""The figures of a study: a line with its band over a number, or differences from the whole."""

from __future__ import annotations

from broker.submission import Study
from gateway.report.charts import Interval, Series, interval_chart, line_chart
from gateway.report.markup import Markup

_METRICS_SHOWN = 3


def study_figure(study: Study) -> Markup | None:
    """The chart of one study, of its first metrics; None where there is nothing to compare."""
    names = list(study.rows[0].metrics)[:_METRICS_SHOWN] if study.rows else []
    if study.axis:
        placed = [row for row in study.rows if row.x is not None]
        if not placed:
            return None
        series = [
            Series(
                name,
                [(row.x or 0.0, row.metrics[name]) for row in placed],
                [(row.intervals[name][0], row.intervals[name][1]) for row in placed],
            )
            for name in names
        ]
        return line_chart(study.title, series, study.axis, "%, with 95 % intervals")
    intervals = [
        Interval(
            row.label,
            row.against_whole[names[0]].difference,
            row.against_whole[names[0]].low,
            row.against_whole[names[0]].high,
            f"p {row.against_whole[names[0]].p_sign:.3f}",
        )
        for row in study.rows
        if names and row.against_whole
    ]
    if not intervals:
        return None
    return interval_chart(f"{study.title}: {names[0]} against the whole", intervals)
