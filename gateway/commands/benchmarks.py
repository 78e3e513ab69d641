"""`xr bench` and `xr cancel`: benchmarks through the HTTP API."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from typing import Annotated, Any

import typer

from gateway.client import Client
from gateway.commands import output
from gateway.commands.knob_options import given, with_knobs
from gateway.commands.options import GatewayOption, JsonOption, connect
from gateway.records import BenchmarkView
from shared.errors import ConfigurationError, PermanentError
from shared.settings import load_settings


class RunFailedError(PermanentError):
    """A run ended otherwise than finished."""


@with_knobs
def bench(
    dataset: Annotated[str, typer.Option(help="name of the data set, e.g. demo or CIRR")],
    split: Annotated[str, typer.Option(help="its split, e.g. val")] = "val",
    name: Annotated[str, typer.Option(help="part of the run folder's name")] = "",
    knob: Annotated[
        list[str] | None, typer.Option(help="a knob as name=value, JSON or text; repeatable")
    ] = None,
    limit: Annotated[int | None, typer.Option(min=1, help="only the first so many queries")] = None,
    restore: Annotated[
        str, typer.Option(metavar="RUN", help="begin with what that run found out")
    ] = "",
    skip_stages: Annotated[
        int, typer.Option(min=0, max=4, help="how many of that run's steps are taken over")
    ] = 0,
    wait: Annotated[bool, typer.Option(help="follow the run to its end")] = True,
    embedded: Annotated[
        bool,
        typer.Option("--embedded", help="start all services here for this run, then stop them"),
    ] = False,
    gateway: GatewayOption = None,
    as_json: JsonOption = False,
    **knobs: Any,
) -> None:
    """Run a benchmark: queue it, follow it, print its metrics."""
    if embedded and (gateway or not wait):
        raise ConfigurationError("--embedded starts a gateway of its own and waits for the run")
    with _embedded() if embedded else nullcontext(gateway) as url, connect(url) as client:
        view = client.submit(
            dataset,
            split,
            name=name,
            knobs={**output.parse_knobs(knob or []), **given(knobs)},
            limit=limit,
            restore=restore,
            skip_stages=skip_stages,
        )
        output.notes.print(f"run {view.id}", highlight=False, soft_wrap=True)
        if wait:
            view = follow(client, view.id)
        print_run(view, as_json)


@contextmanager
def _embedded() -> Iterator[str]:
    """All services as processes of this machine; yields the gateway's URL."""
    from gateway.local_stack import LocalStack

    with LocalStack(load_settings()) as stack:
        with output.service_list() as shown:
            stack.wait_ready(shown)
        yield stack.gateway_url


def follow(client: Client, benchmark_id: str, stop: threading.Event | None = None) -> BenchmarkView:
    """Show a run's progress until it has finished, or `stop` is set.

    Raises: RunFailedError: it ended otherwise.
    """
    stop = stop or threading.Event()
    with output.phase_bars() as bars:
        for view in client.follow(benchmark_id, sleep=stop.wait):
            bars.show(view.progress)
            if stop.is_set():
                return view
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
        output.print_wide(output.metrics_table(view.metrics, intervals=view.intervals))
    for deviation in view.deviations:
        output.console.print(f"deviation: {deviation}", highlight=False, soft_wrap=True)
    counts = ", ".join(f"{name} {count}" for name, count in view.counts.items())
    output.console.print(f"{view.state}: {counts or view.id}", highlight=False, soft_wrap=True)
    output.console.print(f"run folder: {view.run_folder}", highlight=False, soft_wrap=True)


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
