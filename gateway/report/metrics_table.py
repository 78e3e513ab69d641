"""The metrics of a run, ranking by ranking, beside what the paper reports for the same data set."""

from __future__ import annotations

from broker.submission import RunReport, StageReport
from gateway.report.markup import Markup, table, tag
from shared.published_figures import PublishedFigures

_KINDS = {"recall": "Recall", "map": "mAP", "recall_subset": "R_subset", "hits": "Hits"}


def metrics_table(report: RunReport) -> Markup:
    """Every ranking of the run; then the paper's figures, and how far the last stage is off them.

    A difference is only shown where both are about the same queries.
    """
    metrics = [stage.metrics for stage in report.stages] + [one.metrics for one in report.published]
    columns = list(dict.fromkeys(name for row in metrics for name in row))
    scored = any(stage.metrics for stage in report.stages)
    if report.scored and not scored:
        return tag("p", "No query has an answer; the failures below say why.", class_="empty")
    if not columns:
        return tag("p", "The data set publishes no ground truth.", class_="empty")
    best = {name: _best(report, name) for name in columns}
    rows = [
        tag(
            "tr",
            tag("th", stage.title, scope="row"),
            [_cell(stage, name, best) for name in columns],
            tag("td", "–" if stage.median_rank is None else f"{stage.median_rank:g}"),
            class_="pipeline" if stage.stage in report.pipeline else None,
        )
        for stage in (report.stages if scored else ())
    ]
    rows += [_published(report, one, columns) for one in report.published]
    heading = ["", *(metric_name(name) for name in columns), "median rank"]
    return tag(
        "div",
        table(heading, rows, "Metrics of every ranking of the run"),
        tag("p", _remarks(report, scored), class_="note remark") if report.published else None,
    )


def stage_of(report: RunReport, name: str) -> StageReport:
    """A ranking of the run by its name."""
    return next(stage for stage in report.stages if stage.stage == name)


def metric_name(name: str) -> str:
    """recall_subset@1 -> R_subset@1, map@5 -> mAP@5: as papers write them."""
    kind, at, k = name.partition("@")
    return f"{_KINDS.get(kind, kind)}{at}{k}"


def spread(stage: StageReport, metric: str) -> str:
    """± half the width of the interval, in points of 100; empty where there is none."""
    bounds = stage.intervals.get(metric)
    return f"±{50 * (bounds[1] - bounds[0]):.1f}" if bounds else ""


def _best(report: RunReport, name: str) -> float | None:
    """The highest value of a metric; None where all rankings have the same."""
    values = [stage.metrics[name] for stage in report.stages if name in stage.metrics]
    return max(values) if len(set(values)) > 1 else None


def _cell(stage: StageReport, name: str, best: dict[str, float | None]) -> Markup:
    if name not in stage.metrics:
        return tag("td", "–")
    value = stage.metrics[name]
    return tag(
        "td",
        f"{100 * value:.2f}",
        tag("small", spread(stage, name)),
        class_="best" if value == best[name] else None,
    )


def _published(report: RunReport, one: PublishedFigures, columns: list[str]) -> Markup:
    own = stage_of(report, report.pipeline[-1]).metrics if _comparable(report, one) else {}
    cells = []
    for name in columns:
        if name not in one.metrics:
            cells.append(tag("td", "–"))
            continue
        difference = f"{100 * (own[name] - one.metrics[name]):+.2f}" if name in own else ""
        cells.append(tag("td", f"{100 * one.metrics[name]:.2f}", tag("small", difference)))
    about = ", ".join(part for part in (one.split, one.about) if part)
    head = tag("th", one.label, tag("small", about), scope="row")
    return tag("tr", head, cells, tag("td", "–"), class_="published")


def _comparable(report: RunReport, one: PublishedFigures) -> bool:
    """Whether the run's last stage and the figures are about the same thing."""
    return bool(report.pipeline) and one.split == report.split and not (one.about or _apart(report))


def _apart(report: RunReport) -> str:
    """Why no figure of the run can be held against a published one; empty = nothing is."""
    if report.deviations:
        return "the run deviates from the official protocol"
    if report.queries < report.queries_in_data_set:
        return f"the run asked {report.queries} of {report.queries_in_data_set} queries"
    return ""


def _remarks(report: RunReport, scored: bool) -> str:
    """How the paper's figures are to be read beside the run's."""
    splits = sorted({one.split for one in report.published})
    told = "Figures in italics are the paper's, with InternVL3-8B, k' = 100, |Q| = 3, RRF k = 60."
    if not scored:
        return (
            f"{told} This split has no public ground truth: the evaluation server says what the "
            "run's submission files score, to be read beside them."
        )
    if report.split not in splits:
        about = " and ".join(splits)
        return f"{told} They are about {about}, this run asked {report.split}: a hint."
    if _apart(report):
        return f"{told} No difference is shown: {_apart(report)}."
    return f"{told} Below each: the last stage of this run minus it."
