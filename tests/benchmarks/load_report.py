"""A table of measured figures beside their targets, printed and kept in docs/reliability.md."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from tests.faults import page


@dataclass(frozen=True)
class Figure:
    """One measured value; `target` is empty where there is none."""

    name: str
    measured: str
    target: str = ""
    met: bool = True


def table(figures: Sequence[Figure]) -> str:
    """Markdown."""
    rows = ["| | measured | target | |", "|---|---|---|---|"]
    rows += [
        f"| {figure.name} | {figure.measured} | {figure.target} | {_verdict(figure)} |"
        for figure in figures
    ]
    return "\n".join(rows)


def publish(section: str, title: str, figures: Sequence[Figure], *, report: bool) -> bool:
    """Print the table and, if wanted, put it on the page; whether every target was met."""
    text = f"### {title}\n\n{page.measured_on()}\n\n{table(figures)}"
    print(text, end="\n\n", flush=True)
    if report:
        print(f"written to {page.write_section(section, text)}", flush=True)
    return all(figure.met for figure in figures)


def _verdict(figure: Figure) -> str:
    if not figure.target:
        return ""
    return "met" if figure.met else "**missed**"
