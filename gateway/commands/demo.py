"""`xr demo`: the whole system on this machine, one benchmark through it, and what came out."""

from __future__ import annotations

import signal
import threading
from pathlib import Path
from types import FrameType
from typing import Annotated, Any, Final

import typer

from gateway.client import Client
from gateway.commands import benchmarks, output
from gateway.commands.options import JsonOption
from gateway.local_stack import LocalStack
from gateway.records import BenchmarkView
from shared.errors import ConfigurationError
from shared.settings import load_settings

DATASET, SPLIT, SEED = "demo", "val", 7
QUERIES: Final = 100
"""Queries of a plain `xr demo`."""
TOP_K: Final = 30
"""Candidates verified per query in a plain `xr demo`."""
FULL_TOP_K: Final = 100
COLUMNS = {
    "recall@1": "Recall@1",
    "recall@5": "Recall@5",
    "recall@10": "Recall@10",
    "map@5": "mAP@5",
}
"""Metric -> its column in the demo's table."""
LEFT_OUT: Final[dict[str, dict[str, Any]]] = {
    "without imagination from text": {"imagine_text": False},
    "without imagination from pixels": {"imagine_image": False},
    "without imagination": {"imagine_text": False, "imagine_image": False},
    "without similarity to images": {"list_kinds": ["textual"]},
    "without similarity to captions": {"list_kinds": ["visual"]},
    "without questions about images": {"verify_mode": "textual"},
    "without questions about captions": {"verify_mode": "visual"},
    "without questions": {"stages": ["coarse"]},
}
"""What is left out -> the knobs that do it; everything else stays as in the demo's own run."""
ROW_NAMES = {
    "image_only": "image only",
    "text_only": "text only",
    "image_text_sum": "image + text (sum)",
    "coarse": "XR coarse (RRF)",
    "verified": "XR verified",
    "compared": "XR with compare",
}
"""Method -> its name in the demo's table; others (each XR list) keep their own names."""


def demo(
    full: Annotated[bool, typer.Option("--full", help="all queries, 100 candidates each")] = False,
    queries: Annotated[int | None, typer.Option(min=1, help=f"[default: {QUERIES}]")] = None,
    top_k: Annotated[
        int | None, typer.Option(min=1, help=f"candidates verified [default: {TOP_K}]")
    ] = None,
    ablation: Annotated[
        bool, typer.Option("--ablation", help="also leave each agent out, one after another")
    ] = False,
    processes: Annotated[int, typer.Option(min=1, help="processes per agent type")] = 1,
    as_json: JsonOption = False,
) -> None:
    """Start everything, run the demo benchmark over HTTP, print its metrics, stop everything."""
    settings = load_settings()
    _interrupt_on_sigterm()
    provide_demo_data(settings.data_root)
    limit = queries if queries is not None else None if full else QUERIES
    knobs = demo_knobs(top_k or (FULL_TOP_K if full else TOP_K))
    with LocalStack(settings, processes=processes) as stack:
        with output.service_list() as shown:
            stack.wait_ready(shown)
        output.notes.print(f"gateway: {stack.gateway_url}", highlight=False)
        with Client(stack.gateway_url) as client:
            submitted = client.submit(DATASET, SPLIT, name="demo", knobs=knobs, limit=limit)
            try:
                view = benchmarks.follow(client, submitted.id)
            except KeyboardInterrupt:
                client.cancel(submitted.id)
                raise
            _print_result(view, as_json)
            if ablation:
                _leave_agents_out(client, knobs, limit)


def demo_data(
    out: Annotated[Path | None, typer.Option(help="[default: <XR_DATA_ROOT>/demo]")] = None,
    seed: Annotated[int, typer.Option()] = SEED,
    if_missing: Annotated[
        bool, typer.Option("--if-missing", help="leave one that is there as it is")
    ] = False,
) -> None:
    """Write the demo data set: rendered scenes and queries whose every target is known."""
    folder = out or load_settings().data_root / DATASET
    if if_missing and (folder / "gallery.jsonl").is_file():
        output.console.print(f"demo data set in {folder} already", highlight=False, soft_wrap=True)
        return
    write_demo_data(folder, seed)
    output.console.print(f"demo data set in {folder}", highlight=False, soft_wrap=True)


def provide_demo_data(data_root: Path) -> None:
    """Write the demo data set where there is none yet."""
    folder = data_root / DATASET
    if not (folder / "gallery.jsonl").is_file():
        output.notes.print(f"writing the demo data set to {folder}", highlight=False)
        write_demo_data(folder, SEED)


def index_demo_gallery(client: Client, stop: threading.Event) -> None:
    """Index the demo's images as the gallery "demo", and show how far it is, until `stop` is set.

    What is indexed already, by a benchmark as well, is not done again.
    Raises: RunFailedError.
    """
    known = {view.name: view for view in client.galleries()}
    view = known.get(DATASET)
    if view is None:
        view = client.create_gallery(DATASET, DATASET)
    elif view.state in ("failed", "cancelled"):
        client.resume(view.benchmark_id)
    if view.state != "ready":
        benchmarks.follow(client, view.benchmark_id, stop)


def write_demo_data(folder: Path, seed: int) -> None:
    """Raises: ConfigurationError: the folder exists already."""
    from shared.demo_world.benchmark import build, write

    if folder.exists():
        raise ConfigurationError(f"{folder} exists already: remove it, or name another with --out")
    write(build(seed), folder)


def demo_knobs(top_k: int) -> dict[str, Any]:
    """All stages and the baselines, so that the table shows what each step adds."""
    return {
        "top_k": top_k,
        "rank_depth": max(100, top_k),
        "stages": ["coarse", "verify", "compare"],
        "baselines": True,
    }


def _leave_agents_out(client: Client, knobs: dict[str, Any], limit: int | None) -> None:
    """Run the verified pipeline whole and without each agent, and print one table of all."""
    verified = {**knobs, "stages": ["coarse", "verify"], "baselines": False}
    rows = {}
    for name, changes in {"whole": {}, **LEFT_OUT}.items():
        submitted = client.submit(
            DATASET, SPLIT, name="ablation", knobs={**verified, **changes}, limit=limit
        )
        output.notes.print(name, highlight=False)
        view = benchmarks.follow(client, submitted.id)
        last = "coarse" if changes.get("stages") == ["coarse"] else "verified"
        rows[name] = view.metrics[last]
    output.print_wide(output.metrics_table(rows, COLUMNS))


def _print_result(view: BenchmarkView, as_json: bool) -> None:
    if as_json:
        benchmarks.print_run(view, as_json=True)
        return
    named = {ROW_NAMES.get(method, method): row for method, row in view.metrics.items()}
    output.print_wide(output.metrics_table(named, COLUMNS))
    counts = ", ".join(f"{name} {count}" for name, count in view.counts.items())
    phases = [phase for phase in view.progress if phase.phase != "done"]
    times = ", ".join(f"{phase.phase} {phase.seconds:.1f} s" for phase in phases)
    for line in (
        f"\ncounts: {counts}",
        f"wall time: {times}",
        f"run folder: {view.run_folder}",
        f"look again: cat the run folder's metrics.txt, or `xr up` and `xr runs show {view.id}`",
    ):
        output.console.print(line, highlight=False, soft_wrap=True)


def _interrupt_on_sigterm() -> None:
    """SIGTERM ends the demo as Ctrl-C does: everything it started is stopped."""

    def interrupt(_number: int, _frame: FrameType | None) -> None:
        raise KeyboardInterrupt

    signal.signal(signal.SIGTERM, interrupt)
