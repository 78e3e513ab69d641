"""Charts as SVG, of which the report, the web page and the figures of a study are made.

Colours and type come from charts.css, so that a chart follows the page it stands in, light or dark.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Sequence
from typing import NamedTuple

from gateway.report.markup import Child, Markup, joined, tag
from gateway.web import read_text

WIDTH, HEIGHT = 720, 340
_LEFT, _RIGHT, _TOP, _BOTTOM = 56, 16, 12, 48
_ROW_HEIGHT = 30
COLOURS = 8
"""So many series are told apart by colour; further ones begin again, dashed."""


class Series(NamedTuple):
    """One line.

    Attributes:
        points: (x, y), in the order of x.
        bounds: (low, high) of each y; () = none.
        quiet: drawn thinner, as what others are compared with.
    """

    name: str
    points: Sequence[tuple[float, float]]
    bounds: Sequence[tuple[float, float]] = ()
    quiet: bool = False


class Interval(NamedTuple):
    """One row of an interval chart: a difference, its bounds, and a remark at the end."""

    label: str
    value: float
    low: float
    high: float
    remark: str = ""


Scale = Callable[[float], float]


def line_chart(
    title: str, series: Sequence[Series], x_label: str, y_label: str, log_x: bool = False
) -> Markup:
    """Lines over one x axis, y in percent of fractions; a legend stands below.

    Args:
        title: what the chart shows, for those who cannot see it.
        log_x: a logarithmic axis; every x is above 0 then.
    """
    xs = sorted({x for one in series for x, _ in one.points})
    ys = [y for one in series for _, y in one.points]
    ys += [end for one in series for both in one.bounds for end in both]
    if not xs:
        return tag("p", "nothing to draw", class_="empty")
    y_ticks = _ticks(min(ys), max(ys))
    x_ticks = _log_ticks(xs[0], xs[-1]) if log_x else _few(xs)
    across = _scale(xs[0], xs[-1], _LEFT, WIDTH - _RIGHT, log_x)
    up = _scale(y_ticks[0], y_ticks[-1], HEIGHT - _BOTTOM, _TOP)
    grid = _grid(x_ticks, y_ticks, across, up, x_label, y_label)
    lines = [
        _line(one, number, across, up, with_points=len(one.points) <= 20)
        for number, one in enumerate(series)
    ]
    legend, height = _legend(series, HEIGHT + 14)
    return _figure(title, [grid, *lines, *legend], HEIGHT + height)


def interval_chart(title: str, rows: Sequence[Interval]) -> Markup:
    """Differences with their intervals, one row each, around a line at zero; in points of 100."""
    height = _TOP + _ROW_HEIGHT * len(rows) + 40
    ends = [end for row in rows for end in (row.low, row.high, 0.0)]
    ticks = _ticks(min(ends, default=-0.01), max(ends, default=0.01))  # a study without rows
    left = min(240, 24 + round(6.6 * max((len(row.label) for row in rows), default=0)))
    right = WIDTH - 240
    across = _scale(ticks[0], ticks[-1], left, right)
    foot = height - 34
    parts: list[Child] = [
        [
            tag("line", class_="grid", x1=across(at), x2=across(at), y1=_TOP, y2=foot),
            _text(f"{100 * at:+.0f}" if at else "0", across(at), foot + 16, "middle"),
        ]
        for at in ticks
    ]
    parts.append(tag("line", class_="zero", x1=across(0), x2=across(0), y1=_TOP, y2=foot))
    parts.append(_text("points", (left + right) / 2, foot + 31, "middle"))
    for number, row in enumerate(rows):
        y = _TOP + _ROW_HEIGHT * (number + 0.5)
        sure = "sure" if row.low > 0 or row.high < 0 else "unsure"
        parts += [
            _text(row.label, left - 12, y + 4, "end"),
            tag("line", class_=f"whisker {sure}", x1=across(row.low), x2=across(row.high),
                y1=y, y2=y),
            tag("circle", class_=f"dot {sure}", cx=across(row.value), cy=y, r=5),
            _text(f"{100 * row.value:+.2f}", right + 12, y + 4, "start", "value"),
            _text(row.remark, right + 68, y + 4, "start"),
        ]  # fmt: skip
    return _figure(title, parts, height)


def rank_change_chart(
    title: str, changes: Sequence[tuple[int, int]], x_label: str, y_label: str
) -> Markup:
    """Each query's rank before against after, both logarithmic: below the diagonal is better.

    Queries at the same place are one larger dot.
    """
    if not changes:
        return tag("p", "no query has a rank", class_="empty")
    most = max(2, *(rank for both in changes for rank in both))
    size = 420
    ticks = _log_ticks(1, most) if most > 10 else [1.0, *range(2, most + 1)]
    low, high = 1 / 1.2, most * 1.2  # a little beyond the outer dots
    across = _scale(low, high, _LEFT, size - _RIGHT, log=True)
    up = _scale(low, high, size - _BOTTOM, _TOP, log=True)
    below = [(across(low), up(low)), (across(high), up(high)), (across(high), up(low))]
    parts: list[Child] = [
        tag("path", class_="area", d=_path(below) + "Z"),
        _grid(ticks, ticks, across, up, x_label, y_label, width=size, height=size, plain=True),
        tag("line", class_="zero", x1=across(low), y1=up(low), x2=across(high), y2=up(high)),
    ]
    counted = sorted(Counter(changes).items(), key=lambda both: -both[1])
    for (before, after), count in counted:
        kind = "better" if after < before else "worse" if after > before else "same"
        shown = f"{count} quer{'y' if count == 1 else 'ies'}: rank {before} -> {after}"
        radius = min(22.0, 2.5 + 2.5 * math.sqrt(count))
        parts.append(
            tag("circle", tag("title", shown), class_=f"rank {kind}", cx=across(before),
                cy=up(after), r=radius)
        )  # fmt: skip
    return _figure(title, parts, size, width=size)


def standalone(chart: Markup) -> str:
    """The SVG of a chart as a file of its own."""
    svg = chart[chart.index("<svg") : chart.index("</svg>") + len("</svg>")]
    head, _, rest = svg.partition(">")
    style = f"<style>{read_text('charts.css')}</style>"
    ground = '<rect class="ground" width="100%" height="100%"/>'
    return f'{head} xmlns="http://www.w3.org/2000/svg">{style}{ground}{rest}\n'


def _figure(title: str, parts: Sequence[Child], height: float, width: int = WIDTH) -> Markup:
    svg = tag(
        "svg", tag("title", title), *parts, class_="chart", role="img", aria_label=title,
        viewBox=f"0 0 {width} {height:g}",
    )  # fmt: skip
    return tag("figure", svg, class_="chart-figure")


def _legend(series: Sequence[Series], top: float) -> tuple[list[Child], float]:
    """The names of the series beside their colours, in as many rows as they need; their height."""
    parts: list[Child] = []
    x, y = float(_LEFT), top
    for number, one in enumerate(series):
        width = 34 + 6.6 * len(one.name)
        if x > _LEFT and x + width > WIDTH - _RIGHT:
            x, y = float(_LEFT), y + 20
        swatch = tag("line", class_="line", x1=x, x2=x + 18, y1=y - 4, y2=y - 4)
        parts.append(
            tag("g", swatch, _text(one.name, x + 24, y, "start"), class_=_look(one, number))
        )
        x += width + 10
    return parts, y - top + 20


def _look(one: Series, number: int) -> str:
    dashed = " dashed" if number >= COLOURS else ""
    return f"s{number % COLOURS}{dashed}{' quiet' if one.quiet else ''}"


def _line(one: Series, number: int, across: Scale, up: Scale, with_points: bool) -> Markup:
    places = [(across(x), up(y)) for x, y in one.points]
    parts: list[Child] = []
    if one.bounds:
        lows = [(across(x), up(low)) for (x, _), (low, _) in zip(one.points, one.bounds)]  # noqa: B905
        highs = [(across(x), up(high)) for (x, _), (_, high) in zip(one.points, one.bounds)]  # noqa: B905
        parts.append(tag("path", class_="band", d=_path([*lows, *reversed(highs)]) + "Z"))
    parts.append(tag("path", class_="line", d=_path(places)))
    if with_points:
        parts += [
            tag("circle", tag("title", f"{one.name}: {x:g}, {100 * y:.2f}"), class_="dot",
                cx=px, cy=py, r=3)
            for (x, y), (px, py) in zip(one.points, places, strict=True)
        ]  # fmt: skip
    return tag("g", tag("title", one.name), *parts, class_=_look(one, number))


def _path(places: Sequence[tuple[float, float]]) -> str:
    return "M" + "L".join(f"{x:.1f},{y:.1f}" for x, y in places)


def _grid(
    x_ticks: Sequence[float],
    y_ticks: Sequence[float],
    across: Scale,
    up: Scale,
    x_label: str,
    y_label: str,
    width: int = WIDTH,
    height: int = HEIGHT,
    plain: bool = False,
) -> Markup:
    """Grid lines with their figures; y is a fraction shown in percent unless `plain`."""
    foot = height - _BOTTOM
    parts: list[Child] = []
    for y in y_ticks:
        shown = f"{y:g}" if plain else f"{100 * y:g}"
        parts.append(tag("line", class_="grid", x1=_LEFT, x2=width - _RIGHT, y1=up(y), y2=up(y)))
        parts.append(_text(shown, _LEFT - 8, up(y) + 4, "end"))
    for x in x_ticks:
        parts.append(tag("line", class_="tick", x1=across(x), x2=across(x), y1=foot, y2=foot + 5))
        parts.append(_text(f"{x:g}", across(x), foot + 19, "middle"))
    middle = (_TOP + foot) / 2
    turned = tag(
        "text", y_label, class_="axis", text_anchor="middle", x=14, y=middle,
        transform=f"rotate(-90 14 {middle:g})",
    )  # fmt: skip
    label = _text(x_label, (_LEFT + width - _RIGHT) / 2, foot + 39, "middle", "axis")
    return tag("g", *parts, turned, label)


def _text(shown: str, x: float, y: float, anchor: str, kind: str = "") -> Markup:
    if not shown:
        return joined()
    return tag("text", shown, class_=kind or None, x=float(x), y=float(y), text_anchor=anchor)


def _scale(low: float, high: float, start: float, end: float, log: bool = False) -> Scale:
    """Values from `low` to `high` -> places from `start` to `end`."""
    shape: Scale = math.log if log else float
    span = (shape(high) - shape(low)) or 1.0
    return lambda value: start + (shape(value) - shape(low)) / span * (end - start)


def _ticks(low: float, high: float, about: int = 5) -> list[float]:
    """Round numbers around [low, high], about so many."""
    span = (high - low) or 0.1
    raw = span / about
    unit = 10.0 ** math.floor(math.log10(raw))
    step = next(unit * factor for factor in (1, 2, 2.5, 5, 10) if unit * factor >= raw)
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    last = max(last, first + 1)
    return [round(number * step, 10) for number in range(first, last + 1)]


def _log_ticks(low: float, high: float) -> list[float]:
    wide = high / low > 2000
    steps = (1,) if wide else (1, 2, 5)
    powers = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    found = [float(step * 10**power) for power in powers for step in steps]
    return [tick for tick in found if low <= tick <= high]


def _few(values: Sequence[float], most: int = 12) -> list[float]:
    step = math.ceil(len(values) / most)
    return list(values[::step])
