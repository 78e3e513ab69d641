"""`xr sweep --study`: the paper's studies as tables and figures."""

from __future__ import annotations

import csv
import io
import sys
from collections.abc import Sequence
from pathlib import Path

import msgspec
from rich.progress import Progress
from rich.table import Table

from broker.submission import Study, StudyName, study_names, study_run
from gateway.commands import output
from gateway.report.charts import standalone
from gateway.report.study_figures import study_figure
from shared import atomic_files
from shared.errors import ConfigurationError
from shared.settings import load_settings


def studies(run: str, given: str, out: Path | None, as_json: bool) -> None:
    """Compute the studies, print them, and write them to the folder `out`.

    Args:
        given: names with commas, or "all".
    """
    names = _names(given)
    found: list[Study] = []
    with Progress(console=output.notes, transient=True) as progress:
        bar = progress.add_task("studies", total=len(names))
        for name in names:
            progress.update(bar, description=name)
            found += study_run(load_settings(), run, [name])
            progress.advance(bar)
    if out is not None:
        out.mkdir(parents=True, exist_ok=True)
        atomic_files.write_json(out / "studies.json", msgspec.to_builtins(found))
        atomic_files.write_bytes(out / "studies.csv", as_csv(found).encode())
        for study in found:
            figure = study_figure(study)
            if figure is not None:
                atomic_files.write_bytes(out / f"{study.name}.svg", standalone(figure).encode())
    if as_json:
        output.print_json(msgspec.to_builtins(found))
        return
    for study in found:
        _show(study)
    if out is not None:
        output.console.print(f"tables and figures: {out}", highlight=False, soft_wrap=True)


def as_csv(found: Sequence[Study]) -> str:
    """One line a variant and metric: value, bounds, and the difference from the whole."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(
        ["study", "variant", "x", "stage", "coverage", "metric", "value", "low", "high",
         "difference", "difference.low", "difference.high", "p_sign"]
    )  # fmt: skip
    for study in found:
        for row in study.rows:
            for metric, value in row.metrics.items():
                against = row.against_whole.get(metric)
                compared = (
                    [against.difference, against.low, against.high, against.p_sign]
                    if against
                    else [""] * 4
                )
                x = "" if row.x is None else f"{row.x:g}"
                bounds = row.intervals.get(metric, ("", ""))
                writer.writerow([study.name, row.label, x, row.stage, row.coverage, metric, value,
                                 *bounds, *compared])  # fmt: skip
    return text.getvalue()


def _show(study: Study) -> None:
    metrics = list(study.rows[0].metrics) if study.rows else []
    compared = any(row.against_whole for row in study.rows)
    table = Table(box=None, header_style="bold", pad_edge=False)
    table.add_column("variant", no_wrap=True)
    for name in ("stage", "coverage", *metrics):
        table.add_column(name, justify="left" if name == "stage" else "right", no_wrap=True)
    if compared:
        table.add_column(f"{metrics[0]} against the whole", justify="right", no_wrap=True)
    for row in study.rows:
        cells = [row.label, row.stage, f"{100 * row.coverage:.1f}"]
        cells += [output.percent(row.metrics[name], row.intervals.get(name)) for name in metrics]
        if compared and row.against_whole:
            paired = row.against_whole[metrics[0]]
            cells.append(f"{100 * paired.difference:+.2f}, p {paired.p_sign:.4f}")
        table.add_row(*cells)
    notes = "".join(f"note: {note}\n" for note in study.notes)
    sys.stdout.write(f"{study.title}\n\n{output.wide_text(table)}\n{notes}\n")


def _names(given: str) -> list[StudyName]:
    known = study_names()
    if given == "all":
        return list(known)
    names: list[StudyName] = []
    for part in filter(None, (part.strip() for part in given.split(","))):
        name = next((name for name in known if name == part), None)
        if name is None:
            raise ConfigurationError(
                f"--study has {part!r}: use all, or some of {', '.join(known)}"
            )
        names.append(name)
    return names
