"""How the command line shows things: consoles, progress bars, tables, JSON."""

from __future__ import annotations

import io
import json
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
)
from rich.table import Table

from gateway.records import BenchmarkView, PhaseProgress
from gateway.supervisor import ServiceStatus
from shared.errors import ConfigurationError

_NO_EDGE = 1000

console = Console()
notes = Console(stderr=True)
"""Progress and remarks go to standard error, so that results can be piped."""


def print_wide(table: Table) -> None:
    """A table whose cells are never cut: only a column that may wrap heeds a terminal's edge."""
    width = None if console.is_terminal else _NO_EDGE
    Console(file=console.file, width=width).print(table, crop=False)


def print_json(value: Any) -> None:
    """One JSON document on standard output."""
    json.dump(value, sys.stdout, indent=2, ensure_ascii=False)
    sys.stdout.write("\n")


def parse_knobs(given: Sequence[str]) -> dict[str, Any]:
    """["top_k=50", "fusion=sum"] -> {"top_k": 50, "fusion": "sum"}; values are JSON or plain text.

    Raises: ConfigurationError: an entry without "=".
    """
    knobs: dict[str, Any] = {}
    for entry in given:
        name, equals, text = entry.partition("=")
        if not equals or not name:
            raise ConfigurationError(f"--knob {entry!r}: write it as name=value, e.g. top_k=50")
        try:
            knobs[name.strip()] = json.loads(text)
        except ValueError:
            knobs[name.strip()] = text
    return knobs


class PhaseBars:
    """One progress bar per phase of a run, in the order in which the phases appear."""

    def __init__(self, progress: Progress) -> None:
        self.progress = progress
        self._bars: dict[str, TaskID] = {}

    def show(self, phases: Sequence[PhaseProgress]) -> None:
        for phase in phases:
            if phase.phase not in self._bars:
                self._bars[phase.phase] = self.progress.add_task(
                    phase.phase, total=None, remarks=""
                )
            failed = f"[red]{phase.failed} failed" if phase.failed else ""
            rate = f"{phase.rate_per_s:.1f}/s" if phase.rate_per_s else ""
            self.progress.update(
                self._bars[phase.phase],
                completed=phase.done,
                total=phase.total or None,
                remarks=f"{rate} {failed}".strip(),
            )


@contextmanager
def phase_bars() -> Iterator[PhaseBars]:
    """Live bars on standard error; plain lines at the end where it is no terminal."""
    with Progress(
        TextColumn("{task.description:<12}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TextColumn("{task.fields[remarks]}"),
        console=notes,
    ) as progress:
        yield PhaseBars(progress)


@contextmanager
def service_list() -> Iterator[Callable[[Sequence[ServiceStatus]], None]]:
    """Shows services as they become ready, in one line on standard error."""
    with notes.status("starting services") as line:

        def show(statuses: Sequence[ServiceStatus]) -> None:
            ready = sum(status.state == "ready" for status in statuses)
            late = ", ".join(status.name for status in statuses if status.state != "ready")
            line.update(f"{ready}/{len(statuses)} services ready; waiting for {late or 'none'}")

        yield show


def metrics_table(
    metrics: Mapping[str, Mapping[str, float]],
    columns: Mapping[str, str] | None = None,
    intervals: Mapping[str, Mapping[str, Sequence[float]]] | None = None,
) -> Table:
    """Methods as rows, metrics as columns, in percent; "-" where a method has no such metric.

    Args:
        columns: metric -> heading; None = every metric under its own name.
        intervals: bounds of the metrics; where there are, half their width is shown as ±.
    """
    if columns is None:
        columns = {name: name for row in metrics.values() for name in row}
    table = Table(box=None, header_style="bold", pad_edge=False)
    table.add_column("method", no_wrap=True)
    for heading in columns.values():  # on a narrow terminal the interval goes to a second line
        table.add_column(heading, justify="right", min_width=len(heading))
    for method, row in metrics.items():
        bounds = (intervals or {}).get(method, {})
        values = [percent(row[name], bounds.get(name)) if name in row else "-" for name in columns]
        table.add_row(method, *values)
    return table


def wide_text(table: Table) -> str:
    """A table at its full width, whatever the terminal's: a study has more columns than that."""
    text = io.StringIO()
    Console(file=text, width=10_000).print(table)
    return "\n".join(line.rstrip() for line in text.getvalue().splitlines())


def percent(value: float, bounds: Sequence[float] | None = None) -> str:
    """0.5, (0.4, 0.6) -> "50.00 ±10.00"."""
    spread = f" ±{50 * (bounds[1] - bounds[0]):.2f}" if bounds else ""
    return f"{100 * value:.2f}{spread}"


def runs_table(views: Sequence[BenchmarkView]) -> Table:
    """Runs as rows; ids are never cut, as they are there to be copied."""
    table = Table(box=None, header_style="bold", pad_edge=False)
    table.add_column("id", no_wrap=True, min_width=max((len(view.id) for view in views), default=2))
    for name in ("data set", "state", "phase", "done", "failed"):
        table.add_column(name, justify="right" if name in ("done", "failed") else "left")
    for view in views:
        current = view.progress[-1] if view.progress else None
        table.add_row(
            view.id,
            f"{view.dataset}/{view.split}",
            view.state,
            view.phase,
            f"{current.done}/{current.total}" if current else "",
            str(current.failed) if current else "",
        )
    return table
