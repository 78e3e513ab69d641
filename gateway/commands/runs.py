"""`xr runs`: list, show and resume through the HTTP API; replay and diff on the runs' volume."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

import msgspec
import typer
from rich.table import Table

from broker.submission import RunDiff, diff_runs, replay_run, report_run
from gateway.client import GatewayError
from gateway.commands import output
from gateway.commands.benchmarks import follow, print_run
from gateway.commands.knob_options import given, with_knobs
from gateway.commands.options import GatewayOption, JsonOption, connect
from gateway.records import TERMINAL_STATES
from gateway.report.page import whole_page
from gateway.report.pictures import inside
from shared import atomic_files
from shared.settings import load_settings

runs_app = typer.Typer(help="Look at benchmark runs, and study them.", no_args_is_help=True)

RunArgument = Annotated[
    str, typer.Argument(metavar="RUN", help="id of a finished run, or its folder")
]
_QUERIES_SHOWN = 10


@runs_app.command("list")
def list_runs(gateway: GatewayOption = None, as_json: JsonOption = False) -> None:
    """Known runs, newest first."""
    with connect(gateway) as client:
        views = client.benchmarks()
    if as_json:
        output.print_json([view.model_dump(mode="json") for view in views])
    else:
        output.print_wide(output.runs_table(views))


@runs_app.command("show")
def show_run(
    benchmark_id: Annotated[str, typer.Argument(metavar="ID")],
    gateway: GatewayOption = None,
    as_json: JsonOption = False,
) -> None:
    """One run: state, metrics, folder."""
    with connect(gateway) as client:
        print_run(client.benchmark(benchmark_id), as_json)


@runs_app.command("resume")
def resume_run(
    benchmark_id: Annotated[str, typer.Argument(metavar="ID")],
    gateway: GatewayOption = None,
    as_json: JsonOption = False,
) -> None:
    """Take a failed, cancelled or lost run up again where it was, and follow it.

    One that goes on by itself is only followed.
    """
    with connect(gateway) as client:
        try:
            client.resume(benchmark_id)
        except GatewayError as refusal:
            state = client.benchmark(benchmark_id).state
            if state in TERMINAL_STATES:
                raise
            output.notes.print(f"run {benchmark_id} is {state}: {refusal}", highlight=False)
        print_run(follow(client, benchmark_id), as_json)


@runs_app.command("replay")
@with_knobs
def replay(
    run: RunArgument,
    after: Annotated[
        Literal["imagination", "ranking"],
        typer.Option(help="take the recorded results of this stage, and compute all later ones"),
    ] = "imagination",
    name: Annotated[str, typer.Option(help="part of the new run folder's name")] = "",
    knob: Annotated[
        list[str] | None, typer.Option(help="a knob as name=value, JSON or text; repeatable")
    ] = None,
    as_json: JsonOption = False,
    **knobs: Any,
) -> None:
    """Compute a run again from its recorded answers, under other knobs; asks no model."""
    changed = {**output.parse_knobs(knob or []), **given(knobs)}
    report = replay_run(load_settings(), run, changed, after, name)
    if as_json:
        output.print_json(msgspec.to_builtins(report))
        return
    output.print_wide(output.metrics_table(report.metrics))
    for changed_knob, (before, now) in report.changed.items():
        _say(f"{changed_knob}: {before} -> {now}")
    if report.coverage < 1:
        _say(
            f"coverage {100 * report.coverage:.2f} %: the other candidates were never verified and"
            " keep their places, so these are not the figures of a live run"
        )
    _say(f"run {report.id}")
    _say(f"run folder: {report.run_folder}")


@runs_app.command("diff")
def diff(
    first: RunArgument,
    second: RunArgument,
    k: Annotated[
        int | None, typer.Option("--k", min=1, help="list the queries whose hit@k changed")
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Compare two runs: what they are, their metrics query by query, what changed."""
    found = diff_runs(load_settings(), first, second, k)
    if as_json:
        output.print_json(msgspec.to_builtins(found))
        return
    _print_differences(found)


@runs_app.command("report")
def report(
    run: RunArgument,
    out: Annotated[Path, typer.Option(help="the HTML file to write")] = Path("report.html"),
    as_json: JsonOption = False,
) -> None:
    """Write a run's report as one HTML file that carries its pictures; needs no gateway."""
    settings = load_settings()
    found = report_run(settings, run)
    if as_json:
        output.print_json(msgspec.to_builtins(found))
        return
    pictures = inside(settings.galleries_folder, found.gallery)
    atomic_files.write_bytes(out, whole_page(found, pictures).encode())
    _say(f"report: {out} ({out.stat().st_size / 1e6:.1f} MB)")


def _print_differences(found: RunDiff) -> None:
    _say(f"first:  {found.first}")
    _say(f"second: {found.second}")
    for name, (before, now) in {**found.manifest, **found.environment}.items():
        _say(f"{name}: {before} -> {now}")
    table = Table(box=None, header_style="bold", pad_edge=False)
    table.add_column("last stage")
    for heading in ("first", "second", "difference", "95 % interval", "better", "worse", "p"):
        table.add_column(heading, justify="right", no_wrap=True)
    for name, paired in found.paired.items():
        table.add_row(
            name,
            f"{100 * paired.first:.2f}",
            f"{100 * paired.second:.2f}",
            f"{100 * paired.difference:+.2f}",
            f"{100 * paired.low:+.2f} … {100 * paired.high:+.2f}",
            str(paired.better),
            str(paired.worse),
            f"{paired.p_sign:.4f}",
        )
    if found.paired:
        output.print_wide(table)
    for title, queries in (("gained", found.gained), ("lost", found.lost)):
        _say(f"hits@{found.k} {title}: {len(queries)}")
        for query in queries[:_QUERIES_SHOWN]:
            ranks = " -> ".join(str(rank or "-") for rank in (query.first_rank, query.second_rank))
            _say(f"  {query.query_id}, rank {ranks}: {query.modification_text}")
    same = "the same bytes" if found.identical else f"differ first at {found.first_difference}"
    _say(f"predictions: {same}")


def _say(line: str) -> None:
    output.console.print(line, highlight=False, soft_wrap=True, markup=False)
