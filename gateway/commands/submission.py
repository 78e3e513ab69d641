"""`xr submission check`, `xr runs export` and `xr runs mean`: results for others to read."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Annotated, Literal

import msgspec
import typer

from gateway.commands import output
from gateway.commands.options import GatewayOption, JsonOption, connect
from gateway.commands.runs import runs_app
from gateway.records import BenchmarkView
from shared.atomic_files import replacing
from shared.datasets import Benchmark, load_dataset
from shared.datasets.annotation_files import MissingFilesError
from shared.datasets.registry import SOURCES
from shared.errors import ConfigurationError, PermanentError
from shared.metrics import half_width_of_mean, mean_over_runs
from shared.settings import load_settings
from shared.submission import CheckedFile, check_file, shown
from shared.submission.trec import qrels_lines, ranked, run_lines

submission_app = typer.Typer(help="Files for the official servers.", no_args_is_help=True)

DataRootOption = Annotated[
    Path | None, typer.Option("--data-root", help="folder of the data sets [default: XR_DATA_ROOT]")
]


class RefusedSubmissionError(PermanentError):
    """The server would refuse the file."""


@submission_app.callback()
def submission() -> None:
    """Files for the official servers."""


@submission_app.command()
def check(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="the JSON file to send")],
    split: Annotated[
        str, typer.Option(help="the split it answers; without it only the file's form is checked")
    ] = "",
    dataset: Annotated[str, typer.Option(help="CIRR or CIRCO [default: seen from the file]")] = "",
    data_root: DataRootOption = None,
    as_json: JsonOption = False,
) -> None:
    """Say what the server would refuse in a file for CIRR or CIRCO, all of it, or "accepted"."""
    checked, remark = check_file(file), "only its form was checked: --split checks the ids as well"
    if split:
        root = data_root or load_settings().data_root
        benchmark, remark = load_split(dataset or checked.kind, split, root)
        checked = check_file(file, benchmark)
    elif dataset and dataset.lower() != checked.kind:
        raise RefusedSubmissionError(f"{file} has the form of a file for {checked.kind.upper()}")
    _tell(file, checked, remark, as_json)


def load_split(dataset: str, split: str, data_root: Path) -> tuple[Benchmark, str]:
    """A split, and a remark on what of it is not there: its questions alone do without images.

    Raises: DatasetError: its questions are not there either, or are wrong.
    """
    try:
        return load_dataset(dataset, split, data_root), ""
    except MissingFilesError as error:
        source = SOURCES.get(dataset.lower())
        if source is None:
            raise
        queries = tuple(query for _, query in source.read_queries(split, data_root))
        benchmark = Benchmark(
            name=source.name,
            split=split,
            images=(),
            searchable=0,
            queries=queries,
            protocol=source.protocol,
        )
        return benchmark, f"image ids were not checked, as the gallery is not known: {error}"


@runs_app.command("export")
def export_run(
    run: Annotated[str, typer.Argument(metavar="RUN", help="id of a finished run")],
    out: Annotated[Path, typer.Option(help="the folder to write run.trec and qrels.trec to")],
    form: Annotated[Literal["trec"], typer.Option("--format", help="the files' form")] = "trec",
    data_root: DataRootOption = None,
    gateway: GatewayOption = None,
) -> None:
    """Write a run's rankings and its data set's ground truth as TREC files (ir_measures, ranx)."""
    settings = load_settings()
    with connect(gateway) as client:
        view = client.benchmark(run)
        if view.state != "finished":
            raise ConfigurationError(f"run {run} is {view.state}: only finished ones are exported")
        predictions = list(client.predictions(run))
    benchmark, _ = load_split(view.dataset, view.split, data_root or settings.data_root)
    asked = {str(line["query_id"]) for line in predictions}
    queries = [query for query in benchmark.queries if query.query_id in asked]
    first_alone = benchmark.protocol.recall_targets == "first"
    _write(out / f"run.{form}", run_lines(ranked(predictions), view.name or view.id))
    _write(out / f"qrels.{form}", qrels_lines(queries, first_alone))
    ranked_count = sum("ranking" in line for line in predictions)
    output.console.print(
        f"{out}: {ranked_count} of {len(queries)} queries ranked; the others count as misses",
        highlight=False,
        soft_wrap=True,
    )


@runs_app.command("mean")
def mean_of_runs(
    runs: Annotated[list[str], typer.Argument(metavar="RUN...", help="ids of finished runs")],
    gateway: GatewayOption = None,
    as_json: JsonOption = False,
) -> None:
    """The unweighted mean of several runs' metrics, e.g. of FashionIQ's three categories."""
    with connect(gateway) as client:
        views = [client.benchmark(run) for run in runs]
    for view in views:
        if not view.metrics:
            raise ConfigurationError(f"run {view.id} ({view.state}) has no metrics")
    try:
        means = mean_over_runs([view.metrics for view in views])
    except ValueError as error:
        raise ConfigurationError(str(error)) from error
    intervals = {
        method: {metric: _interval(views, method, metric, mean) for metric, mean in row.items()}
        for method, row in means.items()
    }
    if as_json:
        output.print_json({"runs": runs, "metrics": means, "intervals": intervals})
        return
    names = ", ".join(f"{view.dataset}/{view.split}" for view in views)
    output.console.print(f"mean of {names}", highlight=False, soft_wrap=True)
    output.print_wide(output.metrics_table(means, intervals=intervals))


def _interval(views: Iterable[BenchmarkView], method: str, metric: str, mean: float) -> list[float]:
    """Bounds of the mean of independent runs; [] when one of them has none."""
    bounds = [view.intervals.get(method, {}).get(metric, ()) for view in views]
    pairs = [(both[0], both[1]) for both in bounds if len(both) == 2]
    if len(pairs) < len(bounds):
        return []
    half = half_width_of_mean(pairs)
    return [mean - half, mean + half]


def _tell(file: Path, checked: CheckedFile, remark: str, as_json: bool) -> None:
    if as_json:
        output.print_json({**msgspec.to_builtins(checked), "remark": remark})
    what = f"{checked.kind.upper()} {checked.metric}, {checked.queries} queries"
    if checked.problems:
        raise RefusedSubmissionError(
            f"{file} ({what}) would be refused:\n{shown(checked.problems)}"
        )
    if not as_json:
        output.console.print(f"accepted: {file} ({what})", highlight=False, soft_wrap=True)
        if remark:
            output.notes.print(remark, highlight=False, soft_wrap=True)


def _write(path: Path, lines: Iterable[str]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with replacing(path) as temporary, temporary.open("w", encoding="utf-8") as file:
        file.writelines(lines)
