"""`xr bench`, `xr runs` and `xr cancel`: benchmarks through the HTTP API."""

from __future__ import annotations

from typing import Annotated

import typer

from gateway.client import GatewayClient
from gateway.commands import output
from gateway.commands.options import GatewayOption, JsonOption, connect
from gateway.records import BenchmarkView
from shared.errors import PermanentError

runs_app = typer.Typer(help="Look at benchmark runs.", no_args_is_help=True)


class RunFailedError(PermanentError):
    """A run ended otherwise than finished."""


def bench(
    dataset: Annotated[str, typer.Option(help="name of the data set, e.g. demo or CIRR")],
    split: Annotated[str, typer.Option(help="its split, e.g. val")] = "val",
    name: Annotated[str, typer.Option(help="part of the run folder's name")] = "",
    knob: Annotated[list[str] | None, typer.Option(help="name=value; repeatable")] = None,
    limit: Annotated[int | None, typer.Option(min=1, help="only the first so many queries")] = None,
    wait: Annotated[bool, typer.Option(help="follow the run to its end")] = True,
    gateway: GatewayOption = None,
    as_json: JsonOption = False,
) -> None:
    """Run a benchmark: queue it, follow it, print its metrics."""
    knobs = output.parse_knobs(knob or [])
    with connect(gateway) as client:
        view = client.submit(dataset, split, name=name, knobs=knobs, limit=limit)
        output.notes.print(f"run {view.id}", highlight=False, soft_wrap=True)
        if wait:
            view = follow(client, view.id)
        print_run(view, as_json)


def follow(client: GatewayClient, benchmark_id: str) -> BenchmarkView:
    """Show a run's progress until it has finished. Raises: RunFailedError: it ended otherwise."""
    with output.phase_bars() as bars:
        for view in client.follow(benchmark_id):
            bars.show(view.progress)
    if view.state != "finished":
        cause = f": {view.error}" if view.error else ""
        raise RunFailedError(f"run {view.id} {view.state} in phase {view.phase or '-'}{cause}")
    return view


def print_run(view: BenchmarkView, as_json: bool) -> None:
    """A run's metrics, counts and folder on standard output."""
    if as_json:
        output.print_json(view.model_dump(mode="json"))
        return
    if view.metrics:
        output.console.print(output.metrics_table(view.metrics))
    counts = ", ".join(f"{name} {count}" for name, count in view.counts.items())
    output.console.print(f"{view.state}: {counts or view.id}", highlight=False, soft_wrap=True)
    output.console.print(f"run folder: {view.run_folder}", highlight=False, soft_wrap=True)


@runs_app.command("list")
def list_runs(gateway: GatewayOption = None, as_json: JsonOption = False) -> None:
    """Known runs, newest first."""
    with connect(gateway) as client:
        views = client.benchmarks()
    if as_json:
        output.print_json([view.model_dump(mode="json") for view in views])
    else:
        output.console.print(output.runs_table(views), crop=False)


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
    """Take a failed or cancelled run up again where it was, and follow it."""
    with connect(gateway) as client:
        client.resume(benchmark_id)
        print_run(follow(client, benchmark_id), as_json)


def cancel(
    benchmark_id: Annotated[str, typer.Argument(metavar="ID")],
    gateway: GatewayOption = None,
    as_json: JsonOption = False,
) -> None:
    """Stop a run; what it has finished stays on disk."""
    with connect(gateway) as client:
        view = client.cancel(benchmark_id)
    if as_json:
        output.print_json(view.model_dump(mode="json"))
    else:
        output.console.print(f"run {view.id}: {view.state}", highlight=False, soft_wrap=True)
