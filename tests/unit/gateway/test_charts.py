"""Charts: what is drawn stands where its numbers say, in well-formed SVG."""

from __future__ import annotations

from xml.etree import ElementTree

import pytest
from hypothesis import given
from hypothesis import strategies as st

from broker.submission import Study, StudyRow
from gateway.report.charts import (
    Interval,
    Series,
    interval_chart,
    line_chart,
    rank_change_chart,
    standalone,
)
from gateway.report.markup import Markup, joined, tag
from gateway.report.study_figures import study_figure

SVG = "{http://www.w3.org/2000/svg}"


def svg(chart: Markup) -> ElementTree.Element:
    """The drawing as a file of its own, parsed."""
    return ElementTree.fromstring(standalone(chart))


def texts(drawing: ElementTree.Element) -> list[str]:
    return ["".join(one.itertext()) for one in drawing.iter(f"{SVG}text")]


def lines(drawing: ElementTree.Element) -> list[list[tuple[float, float]]]:
    paths = [one for one in drawing.iter(f"{SVG}path") if one.get("class") == "line"]
    return [
        [
            (float(x), float(y))
            for x, y in (at.split(",") for at in path.get("d", "")[1:].split("L"))
        ]
        for path in paths
    ]


def test_a_line_rises_with_its_values_and_a_log_axis_spaces_decades_evenly() -> None:
    drawing = svg(
        line_chart("t", [Series("a", [(1, 0.0), (10, 0.5), (100, 1.0)])], "K", "%", log_x=True)
    )
    ((first, second, third),) = lines(drawing)
    assert second[0] - first[0] == pytest.approx(third[0] - second[0], abs=0.2)
    assert first[1] - second[1] == pytest.approx(second[1] - third[1], abs=0.2)
    assert third[1] < first[1]  # y grows downwards
    assert {"1", "10", "100", "K", "%", "a"} <= set(texts(drawing))


def test_what_is_compared_with_is_drawn_quietly_and_many_series_fit() -> None:
    series = [
        Series(f"a rather long name {n}", [(0, 0.1), (1, 0.2)], quiet=n == 0) for n in range(9)
    ]
    drawing = svg(line_chart("t", series, "x", "y"))
    groups = [one.get("class", "") for one in drawing.iter(f"{SVG}g")]
    assert groups.count("s0 quiet") == 2  # the line and its swatch
    assert "s0 dashed" in groups  # the ninth colour begins again
    height = float(drawing.get("viewBox", "").split()[3])
    assert max(float(one.get("y", 0)) for one in drawing.iter(f"{SVG}text")) < height


def test_an_empty_chart_says_so() -> None:
    assert "nothing to draw" in line_chart("t", [Series("a", [])], "x", "y")
    assert "no query has a rank" in rank_change_chart("t", [], "x", "y")


def test_intervals_apart_from_zero_are_told_from_others() -> None:
    drawing = svg(
        interval_chart(
            "t", [Interval("up", 0.2, 0.1, 0.3, "p 0.01"), Interval("?", 0.0, -0.1, 0.1)]
        )
    )
    sure, unsure = list(drawing.iter(f"{SVG}circle"))
    zero = next(one for one in drawing.iter(f"{SVG}line") if one.get("class") == "zero")
    assert sure.get("class") == "dot sure"
    assert unsure.get("class") == "dot unsure"
    assert float(sure.get("cx", 0)) > float(zero.get("x1", 0))
    assert float(unsure.get("cx", 0)) == pytest.approx(float(zero.get("x1", 0)))
    assert {"+20.00", "p 0.01", "up"} <= set(texts(drawing))


def test_better_ranks_lie_in_the_green_half_and_equal_ones_are_one_dot() -> None:
    drawing = svg(rank_change_chart("t", [(3, 1), (3, 1), (2, 2), (1, 4)], "before", "after"))
    dots = {one.get("class"): one for one in drawing.iter(f"{SVG}circle")}
    assert set(dots) == {"rank better", "rank same", "rank worse"}
    assert dots["rank better"].findtext(f"{SVG}title") == "2 queries: rank 3 -> 1"
    assert float(dots["rank better"].get("r", 0)) > float(dots["rank worse"].get("r", 0))
    assert {"1", "2", "3", "4"} <= set(texts(drawing))
    area = next(one for one in drawing.iter(f"{SVG}path") if one.get("class") == "area")
    corners = [tuple(map(float, at.split(","))) for at in area.get("d", "")[1:-1].split("L")]
    (x0, y0), (x1, y1), _ = corners

    def below(dot: ElementTree.Element) -> bool:
        x, y = float(dot.get("cx", 0)), float(dot.get("cy", 0))
        return y > y0 + (x - x0) * (y1 - y0) / (x1 - x0) + 1

    assert below(dots["rank better"])
    assert not below(dots["rank same"])
    assert not below(dots["rank worse"])


ranks = st.integers(1, 100_000)


@given(st.lists(st.tuples(ranks, ranks), min_size=1, max_size=20))
def test_every_dot_lies_inside_the_drawing(changes: list[tuple[int, int]]) -> None:
    drawing = svg(rank_change_chart("t", changes, "before", "after"))
    for dot in drawing.iter(f"{SVG}circle"):
        assert 56 <= float(dot.get("cx", 0)) <= 404
        assert 12 <= float(dot.get("cy", 0)) <= 372


@given(
    st.lists(
        st.tuples(st.integers(1, 10_000), st.floats(0, 1)), min_size=1, max_size=9,
        unique_by=lambda point: point[0],
    )
)  # fmt: skip
def test_any_line_lies_between_its_axes(points: list[tuple[int, float]]) -> None:
    for log in (True, False):
        drawing = svg(line_chart("t", [Series("a", sorted(points))], "x", "y", log_x=log))
        for x, y in lines(drawing)[0]:
            assert 55.9 <= x <= 704.1
            assert 11.9 <= y <= 292.1


def test_a_study_is_a_line_with_its_band_or_differences_from_the_whole() -> None:
    swept = Study(
        name="top-k", title="k', candidates verified", axis="k'", notes=[],
        rows=[
            StudyRow(label=f"{x}", x=x, stage="verified", coverage=1.0, metrics={"map@5": y},
                     intervals={"map@5": (y - 0.1, y + 0.1)})
            for x, y in ((1.0, 0.2), (10.0, 0.4))
        ],
    )  # fmt: skip
    figure = study_figure(swept)
    assert figure is not None
    drawing = svg(figure)
    ((first, second),) = lines(drawing)
    assert first[0] < second[0]
    assert first[1] > second[1]
    assert any(one.get("class") == "band" for one in drawing.iter(f"{SVG}path"))
    assert {"k'", "map@5"} <= set(texts(drawing))


def test_a_study_with_nothing_to_compare_has_no_figure() -> None:
    # as of a run without baselines, of which only the whole is known
    whole = StudyRow(label="whole", x=None, stage="verified", coverage=1.0,
                     metrics={"map@5": 0.1}, intervals={})  # fmt: skip
    for rows in ([], [whole]):
        for axis in ("", "k"):
            study = Study(name="modality", title="One alone", axis=axis, notes=[], rows=rows)
            assert study_figure(study) is None


def test_markup_escapes_what_is_not_markup() -> None:
    made = tag(
        "p", "a < b & c", tag("b", "d"), None, [1, 2], class_="x", data_kind='"q"', hidden=True
    )
    assert made == ('<p class="x" data-kind="&quot;q&quot;" hidden>a &lt; b &amp; c<b>d</b>12</p>')
    assert tag("br") == "<br/>"
    assert joined("<", Markup("<br/>")) == "&lt;<br/>"
