"""`xr sweep`: a parameter study from the recorded answers of one run."""

from __future__ import annotations

import csv
import io
import json
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Annotated, Any, TypeVar, cast, get_args

import msgspec
import typer
from rich.progress import Progress
from rich.table import Table

from broker.submission import Fusion, Grid, SweepReport, sweep_run
from gateway.commands import output
from gateway.commands.options import JsonOption
from gateway.commands.runs import RunArgument
from gateway.commands.studies import studies
from shared import atomic_files
from shared.errors import ConfigurationError
from shared.settings import load_settings

Value = TypeVar("Value")

_VARIED = ("fusion", "text_weight", "rrf_k", "top_k", "num_questions", "coverage")


def sweep(
    run: RunArgument,
    fusion: Annotated[
        str, typer.Option(help="rrf,sum,interleave,none [default: the run's own]")
    ] = "",
    text_weight: Annotated[
        str, typer.Option(help="values of λ, e.g. 0,0.15,0.5 [default: the run's own]")
    ] = "",
    num_questions: Annotated[
        str, typer.Option(help="values of |Q|, e.g. 1..3 or 1,3 [default: the run's own]")
    ] = "",
    top_k: Annotated[str, typer.Option(help="values of k' [default: the run's own]")] = "",
    rrf_k: Annotated[str, typer.Option(help="values of RRF's k [default: the run's own]")] = "",
    study: Annotated[
        str,
        typer.Option(
            help="instead of a grid, studies of the paper: all, or some of"
            " rrf-k,text-weight,questions,top-k,leave-one-out,modality"
        ),
    ] = "",
    out: Annotated[
        Path | None, typer.Option(help="folder for the tables, and the figures of studies")
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Metrics of every combination of knobs, from one run's recorded answers; asks no model."""
    if study:
        if any((fusion, text_weight, num_questions, top_k, rrf_k)):
            raise ConfigurationError("--study has values of its own: leave the grid's options out")
        studies(run, study, out, as_json)
        return
    grid = Grid(
        fusions=_values("--fusion", fusion, _fusion),
        text_weights=_values("--text-weight", text_weight, float),
        num_questions=_values("--num-questions", num_questions, int),
        top_ks=_values("--top-k", top_k, int),
        rrf_ks=_values("--rrf-k", rrf_k, int),
    )
    began_s = time.monotonic()
    with Progress(console=output.notes, transient=True) as progress:
        bar = progress.add_task("combinations", total=None)
        report = sweep_run(
            load_settings(),
            run,
            grid,
            lambda done, total: progress.update(bar, completed=done, total=total),
        )
    took_s = time.monotonic() - began_s
    output.notes.print(f"{len(report.rows)} combinations in {took_s:.1f} s", highlight=False)
    if out is not None:
        out.mkdir(parents=True, exist_ok=True)
        atomic_files.write_bytes(out / "sweep.csv", as_csv(report).encode())
        atomic_files.write_json(out / "sweep.json", msgspec.to_builtins(report))
        atomic_files.write_bytes(out / "sweep.txt", _as_text(report).encode())
    if as_json:
        output.print_json(msgspec.to_builtins(report))
    else:
        sys.stdout.write(_as_text(report))


def as_csv(report: SweepReport) -> str:
    """One line a combination; metrics are fractions, "low" and "high" their 95 % bounds."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    bounded = [name for name in report.columns if name not in _VARIED]
    bounds = [f"{name}.{end}" for name in bounded for end in ("low", "high")]
    writer.writerow([*report.columns, *bounds])
    for row, intervals in zip(report.rows, report.intervals, strict=True):
        values = [_cell(row.get(name)) for name in report.columns]
        ends = [_cell(end) for name in bounded for end in intervals.get(name, (None, None))]
        writer.writerow([*values, *ends])
    return text.getvalue()


def _cell(value: Any) -> str:
    return "" if value is None else value if isinstance(value, str) else json.dumps(value)


def _table(report: SweepReport) -> Table:
    """What varies and the metrics of the last stage, in percent."""
    last = "verified" if any(name.startswith("verified.") for name in report.columns) else "coarse"
    shown = [name for name in report.columns if name.startswith(f"{last}.")]
    table = Table(box=None, header_style="bold", pad_edge=False)
    for name in (*_VARIED, *(name.removeprefix(f"{last}.") for name in shown)):
        table.add_column(name, justify="left" if name == "fusion" else "right", no_wrap=True)
    for row in report.rows:
        cells = ["-" if row[name] is None else str(row[name]) for name in _VARIED[:-1]]
        table.add_row(
            *cells,
            f"{100 * row['coverage']:.1f}",
            *(f"{100 * row[name]:.2f}" for name in shown),
        )
    return table


def _as_text(report: SweepReport) -> str:
    table = output.wide_text(_table(report))
    return f"{report.run}, {report.queries} queries\n\n{table}\n"


def _values(option: str, given: str, kind: Callable[[str], Value]) -> tuple[Value, ...]:
    """ "1,3" or "1..5" -> the values. Raises: ConfigurationError: names the option and the part."""
    values: list[Value] = []
    for part in filter(None, (part.strip() for part in given.split(","))):
        try:
            values += [kind(one) for one in _spelled_out(part)]
        except ValueError as error:
            raise ConfigurationError(
                f"{option} has {part!r}: write values with commas, or whole numbers as 1..5"
            ) from error
    return tuple(values)


def _spelled_out(part: str) -> Sequence[str]:
    first, dots, last = part.partition("..")
    return [str(number) for number in range(int(first), int(last) + 1)] if dots else [part]


def _fusion(name: str) -> Fusion:
    for known in get_args(Fusion):
        if name == known:
            return cast(Fusion, known)
    raise ValueError(name)
