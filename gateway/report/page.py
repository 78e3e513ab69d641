"""A run's report as HTML: a part of the web page, or one file that carries everything in itself."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from urllib.parse import quote

from broker.submission import Gain, QueryReport, RunReport
from gateway.report.charts import Interval, Series, interval_chart, line_chart, rank_change_chart
from gateway.report.markup import Child, Markup, joined, table, tag
from gateway.report.metrics_table import metric_name, metrics_table, spread, stage_of
from gateway.web import read_text

Picture = Callable[[str], str]
"""Image id -> what its <img> has as src; empty = the picture is not to be had."""

_BASELINES_IN_CURVES = ("image_only", "text_only", "image_text_sum")


def whole_page(report: RunReport, picture: Picture) -> str:
    """One HTML file without a reference to any other: `picture` gives data: URIs."""
    policy = "default-src 'none'; img-src data:; style-src 'unsafe-inline'"
    head = tag(
        "head",
        tag("meta", charset="utf-8"),
        tag("meta", name="viewport", content="width=device-width, initial-scale=1"),
        tag("meta", http_equiv="Content-Security-Policy", content=policy),
        tag("title", f"{report.dataset} {report.split}: {report.name or report.run}"),
        tag("style", Markup(read_text("charts.css") + read_text("report.css"))),
    )
    body = tag("body", tag("main", part_of_page(report, picture), class_="alone"))
    return f"<!doctype html>\n{tag('html', head, body, lang='en')}\n"


def part_of_page(report: RunReport, picture: Picture, links: bool = False) -> Markup:
    """The report as an <article>; `links` lead from each query to its evidence on the web page."""
    queries = _Queries(report, picture, links)
    metrics_note = (
        f"In percent; ± is half the width of the 95 % interval over {report.scored} queries. "
        if report.scored else ""
    )  # fmt: skip
    return tag(
        "article",
        _head(report),
        _section("Metrics", metrics_table(report), f"{metrics_note}{report.protocol}."),
        _of_ranks(report, queries) if report.scored and report.pipeline else None,
        _section("Failures", queries.failures(), "Each counts as a miss in every metric."),
        _section(
            "Costs",
            _costs(report),
            "What answering took, by agent, former owners of the run "
            "included. They depend on caches, batches and restarts; the metrics do not.",
        )
        if report.costs
        else None,
        _section("Set-up", _setup(report)),
        class_="report",
    )


def _of_ranks(report: RunReport, queries: _Queries) -> list[Markup | None]:
    """What is only known where the targets are."""
    staged = len(report.pipeline) > 1
    return [
        _section("Recall by depth", _curves(report),
                 "The share of queries whose target stands among the first K."),
        _section("What each stage adds", [_gain(gain, report) for gain in report.gains] or _EMPTY,
                 "Query by query, with the 95 % interval of the difference and the p of a sign "
                 "test of queries that won against queries that lost.") if staged else None,
        _section("Rank changes", _rank_changes(report),
                 "Where each target stood after fusion and where it stands at the end. Below the "
                 "diagonal, in green, is better; a larger dot is more queries.")
        if staged else None,
        _section("Hardest queries", queries.cards(report.hardest),
                 "The worst-placed targets of the last stage."),
        _section("Pushed down", queries.cards(report.losses),
                 "Targets that stood higher after fusion than at the end.")
        if report.losses else None,
        *(_section(f"By {name}", _by_tag(report, name)) for name in report.by_tag),
    ]  # fmt: skip


_EMPTY = tag("p", "Nothing to show.", class_="empty")


def _section(title: str, content: Child, note: str = "") -> Markup:
    return tag(
        "section", tag("h2", title), tag("p", note, class_="note") if note else None, content
    )


def _head(report: RunReport) -> Markup:
    last = stage_of(report, report.pipeline[-1]) if report.pipeline else None
    figures = [
        tag(
            "div",
            tag("dt", metric_name(name)),
            tag("dd", f"{100 * value:.1f}", tag("small", f" {spread(last, name)}")),
        )
        for name, value in list(last.metrics.items())[:4]
    ] if last is not None else []  # fmt: skip
    counts = report.counts
    told = [
        f"{report.queries} queries",
        f"{counts.get('failed', 0)} failed",
        f"{counts.get('with_fallback', 0)} with a fallback",
        report.submitted_at[:16].replace("T", " ") + " UTC" if report.submitted_at else "",
    ]
    return tag(
        "header",
        tag("p", f"{report.dataset} · {report.split}", class_="kicker"),
        tag("h1", report.name or "Run report"),
        tag("p", " · ".join(part for part in told if part), class_="note"),
        tag("p", report.run, class_="id"),
        [
            tag("p", f"Deviates from the official protocol: {one}", class_="warning")
            for one in report.deviations
        ],
        tag("dl", figures, class_="figures") if figures else None,
    )


def _curves(report: RunReport) -> Markup:
    series = [
        Series(
            stage.title,
            list(enumerate(stage.recall_curve, start=1)),
            quiet=stage.stage in _BASELINES_IN_CURVES,
        )
        for stage in report.stages
        if stage.stage in (*report.pipeline, *_BASELINES_IN_CURVES)
    ]
    return line_chart(
        "Recall at K of every stage", series, "K (logarithmic)", "Recall@K, %", log_x=True
    )


def _gain(gain: Gain, report: RunReport) -> Markup:
    rows = [
        Interval(metric_name(name), one.difference, one.low, one.high,
                 f"{one.better} won, {one.worse} lost, p {_p(one.p_sign)}"
                 if one.better or one.worse else "no query differs")
        for name, one in gain.metrics.items()
    ]  # fmt: skip
    title = f"{stage_of(report, gain.before).title} → {stage_of(report, gain.after).title}"
    chart = interval_chart(f"Gain: {title}", rows) if rows else _EMPTY
    return tag("div", tag("h3", title), chart)


def _rank_changes(report: RunReport) -> Markup:
    placed = [
        (one.before, one.after)
        for one in report.rank_changes
        if one.before is not None and one.after is not None
    ]
    better = sum(after < before for before, after in placed)
    worse = sum(after > before for before, after in placed)
    lost = len(report.rank_changes) - len(placed)
    told: list[Child] = [
        tag("b", better, class_="better"), " moved up, ",
        tag("b", worse, class_="worse"), " moved down, ",
        tag("b", len(placed) - better - worse), " stayed",
        f"; {lost} without a rank in one of them are not drawn" if lost else "", ".",
    ]  # fmt: skip
    chart = rank_change_chart("Ranks after fusion against final ranks", placed,
                              "rank after fusion", "final rank")  # fmt: skip
    return tag("div", chart, tag("p", told, class_="note"), class_="narrow")


def _by_tag(report: RunReport, name: str) -> Markup:
    last = report.pipeline[-1]
    values = report.by_tag[name]
    columns = list(
        dict.fromkeys(m for entry in values.values() for m in entry["methods"].get(last, {}))
    )
    rows = [
        tag(
            "tr",
            tag("th", value or "(none)", scope="row"),
            tag("td", entry["queries"]),
            [
                tag("td", f"{100 * entry['methods'].get(last, {}).get(metric, 0):.2f}")
                for metric in columns
            ],
        )
        for value, entry in values.items()
    ]
    return table([name, "queries", *map(metric_name, columns)], rows, f"Final stage by {name}")


class _Queries:
    """Queries with their pictures."""

    def __init__(self, report: RunReport, picture: Picture, links: bool) -> None:
        self._report = report
        self._picture = picture
        self._links = links

    def cards(self, queries: Sequence[QueryReport]) -> Markup:
        if not queries:
            return tag("p", "None: every target stands first.", class_="empty")
        return tag("ol", [tag("li", self._card(query)) for query in queries], class_="queries")

    def failures(self) -> Markup:
        if not self._report.failures:
            return tag("p", "None: every query was answered.", class_="empty")
        rows = [
            tag(
                "tr",
                tag("th", self._name(query), scope="row"),
                tag("td", query.modification_text, class_="words"),
                tag("td", query.reason, class_="words"),
            )
            for query in self._report.failures
        ]
        return table(["query", "text", "why"], rows, "Queries without an answer")

    def _card(self, query: QueryReport) -> Markup:
        ranks = [
            tag("li", stage_of(self._report, stage).title.removeprefix("XR: "), " ",
                tag("b", query.ranks.get(stage) or "–"))
            for stage in self._report.pipeline
        ]  # fmt: skip
        hits = [
            tag("li", self._image(hit, f"rank {place}", hit in query.target_ids))
            for place, hit in enumerate(query.hits, start=1)
        ]
        return tag(
            "div",
            tag(
                "div",
                self._image(query.reference_id, "reference") if query.reference_id else None,
                tag("p", query.modification_text, class_="change"),
                self._image(query.target_ids[0], "target") if query.target_ids else None,
                class_="task",
            ),
            tag(
                "div",
                tag("p", self._name(query), class_="id"),
                tag("ul", ranks, class_="ranks"),
                tag("ol", hits, class_="hits"),
                tag(
                    "ul",
                    [
                        tag("li", question, " ", tag("b", "yes" if expected else "no"))
                        for question, expected in query.propositions
                    ],
                    class_="propositions",
                ),
            ),
            class_="query",
        )

    def _name(self, query: QueryReport) -> Markup:
        if not self._links:
            return joined(query.query_id)
        run, name = quote(self._report.run, safe="~"), quote(query.query_id, safe="")
        return tag("a", query.query_id, href=f"#/runs/{run}/queries/{name}")

    def _image(self, image_id: str, caption: str, target: bool = False) -> Markup:
        source = self._picture(image_id)
        shown = (
            tag("img", src=source, alt=f"image {image_id}", loading="lazy")
            if source
            else tag("span", "no picture", class_="no-picture")
        )
        kind = "picture target" if target else "picture"
        label = f"{caption} · target" if target else caption
        return tag("figure", shown, tag("figcaption", label), class_=kind)


def _costs(report: RunReport) -> Markup:
    names = sorted({name for spent in report.costs.values() for name in spent})
    rows = [
        tag(
            "tr",
            tag("th", name.replace("_", " "), scope="row"),
            [
                tag("td", _amount(spent[name]) if name in spent else "–")
                for spent in report.costs.values()
            ],
        )
        for name in names
    ]
    return table(["", *report.costs], rows, "Costs by agent")


def _setup(report: RunReport) -> Markup:
    entries: list[tuple[str, str]] = list(report.models.items())
    entries += [(f"knob {name}", str(value)) for name, value in report.knobs.items()]
    entries += [(name.replace("_", " "), str(count)) for name, count in report.counts.items()]
    if report.commit:
        entries.append(("commit", report.commit[:12]))
    return tag(
        "dl", [[tag("dt", name), tag("dd", value)] for name, value in entries], class_="setup"
    )


def _amount(amount: float) -> str:
    """Counts in full; seconds with two decimals."""
    return f"{amount:,.0f}" if amount == int(amount) else f"{amount:,.2f}"


def _p(p: float) -> str:
    return "< 0.001" if p < 0.001 else f"{p:.3f}"
