"""Benchmarks over HTTP: submit, watch, fetch results, cancel."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Header, Query, Request, Response
from fastapi.responses import FileResponse, StreamingResponse

from gateway.access import Caller, CallerDependency, needs
from gateway.errors import OF_A_BODY, OF_EVERY_ROUTE, ApiError, content_of, problems
from gateway.events import Events, described, event_stream
from gateway.pages import PageSize, PageToken, page_of
from gateway.ports import Services, ServicesDependency
from gateway.records import (
    TERMINAL_STATES,
    BenchmarkList,
    BenchmarkRequest,
    BenchmarkView,
    QueryList,
    QueryView,
    RunState,
    SubmissionList,
)
from shared.datasets.named_gallery import gallery_name
from shared.errors import DatasetError, PermanentError

router = APIRouter(
    prefix="/v1/benchmarks",
    tags=["benchmarks"],
    dependencies=[needs("read")],
    responses=problems(*OF_EVERY_ROUTE),
)

RESULT_FILES = {
    "predictions": ("predictions.jsonl", "application/x-ndjson"),
    "manifest": ("manifest.json", "application/json"),
    "metrics-table": ("metrics.txt", "text/plain; charset=utf-8"),
}
"""Route -> (file in the run folder, media type)."""
SUBMISSIONS_FOLDER = "submissions"

OfDataset = Annotated[str, Query(max_length=100, description="only of this data set")]
InState = Annotated[RunState | None, Query(description="only in this state")]


def _file(kind: str) -> dict[int | str, dict[str, Any]]:
    return {**content_of(RESULT_FILES[kind][1].partition(";")[0]), **problems(404)}


@router.post(
    "", status_code=202, dependencies=[needs("bench")], responses=problems(*OF_A_BODY, 507)
)
async def submit_benchmark(
    body: BenchmarkRequest,
    request: Request,
    response: Response,
    services: ServicesDependency,
    caller: CallerDependency,
    idempotency_key: Annotated[str, Header(max_length=200)] = "",
) -> BenchmarkView:
    """Queue a run; `Location` says where to watch it. The same `Idempotency-Key`, the same run."""
    await _check_gallery(services, caller, body.dataset)
    benchmark_id = await services.benchmarks.submit(body, idempotency_key, caller.id)
    response.headers["Location"] = request.url_for("show_benchmark", benchmark_id=benchmark_id).path
    return await seen(services, caller, benchmark_id)


async def _check_gallery(services: Services, caller: Caller, dataset: str) -> None:
    """Raises: ApiError: the data set is a gallery of another key: that is not there."""
    try:
        gallery = gallery_name(dataset)
    except DatasetError as error:
        raise ApiError(422, "unusable-dataset", str(error)) from error
    if gallery is not None:
        await asyncio.to_thread(services.galleries.key_of, gallery.name, caller)


@router.get("")
async def list_benchmarks(
    services: ServicesDependency,
    caller: CallerDependency,
    dataset: OfDataset = "",
    state: InState = None,
    page_size: PageSize = 100,
    page_token: PageToken = "",
) -> BenchmarkList:
    """Known runs, newest first."""
    views = await listed(services, caller, dataset, state)
    shown, following = page_of(views, page_size, page_token)
    return BenchmarkList(benchmarks=shown, total=len(views), next_page_token=following)


@router.get("/{benchmark_id}", responses=problems(404))
async def show_benchmark(
    benchmark_id: str, services: ServicesDependency, caller: CallerDependency
) -> BenchmarkView:
    """State, progress by phase, and the metrics once they are there."""
    return await seen(services, caller, benchmark_id)


@router.get(
    "/{benchmark_id}/events",
    response_class=StreamingResponse,
    responses={**described(BenchmarkView, "progress", "done"), **problems(404)},
)
async def stream_benchmark(
    benchmark_id: str, request: Request, services: ServicesDependency, caller: CallerDependency
) -> StreamingResponse:
    """Server-sent events: `progress` whenever something changed, `done` when the run is over.

    The data of both are what `GET /v1/benchmarks/{id}` answers.
    """
    await seen(services, caller, benchmark_id)
    return await event_stream(request, _events(services, benchmark_id))


@router.delete(
    "/{benchmark_id}", status_code=202, dependencies=[needs("bench")], responses=problems(404)
)
async def cancel_benchmark(
    benchmark_id: str, services: ServicesDependency, caller: CallerDependency
) -> BenchmarkView:
    """Stop a run. What it finished stays in its folder; a finished run stays as it is."""
    await seen(services, caller, benchmark_id)
    cancelled = await services.benchmarks.cancel(benchmark_id)
    if cancelled is None:
        raise _unknown(benchmark_id)
    return cancelled


@router.post(
    "/{benchmark_id}/resume",
    status_code=202,
    dependencies=[needs("bench")],
    responses=problems(404, 409),
)
async def resume_benchmark(
    benchmark_id: str, services: ServicesDependency, caller: CallerDependency
) -> BenchmarkView:
    """Queue a failed or cancelled run again; it goes on where it was."""
    await seen(services, caller, benchmark_id)
    try:
        resumed = await services.benchmarks.resume(benchmark_id)
    except PermanentError as error:
        raise ApiError(409, "nothing-to-resume", str(error)) from error
    if resumed is None:
        raise _unknown(benchmark_id)
    return resumed


@router.get("/{benchmark_id}/queries", responses=problems(404, 409))
async def list_queries(
    benchmark_id: str,
    services: ServicesDependency,
    caller: CallerDependency,
    stage: Annotated[
        str, Query(max_length=100, description="that `sort` is about; empty = the last")
    ] = "",
    sort: Annotated[
        Literal["dataset", "hardest", "gained", "lost"],
        Query(description="hardest: worst rank first; gained, lost: places from coarse to `stage`"),
    ] = "dataset",
    page_size: PageSize = 100,
    page_token: PageToken = "",
) -> QueryList:
    """The run's queries, and the rank each stage has their target at."""
    await seen(services, caller, benchmark_id)
    return await services.benchmarks.queries(benchmark_id, stage, sort, page_size, page_token)


@router.get("/{benchmark_id}/queries/{query_id:path}", responses=problems(404, 409))
async def show_query(
    benchmark_id: str,
    query_id: str,
    services: ServicesDependency,
    caller: CallerDependency,
    k: Annotated[int, Query(ge=1, le=1_000, description="how many images are returned")] = 20,
) -> QueryView:
    """One query with all its evidence, as it was recorded."""
    await seen(services, caller, benchmark_id)
    return await services.benchmarks.query(benchmark_id, query_id, k)


@router.get(
    "/{benchmark_id}/predictions", response_class=FileResponse, responses=_file("predictions")
)
async def download_predictions(
    benchmark_id: str, services: ServicesDependency, caller: CallerDependency
) -> FileResponse:
    """The ranking of every finished query, one JSON object a line."""
    return await _result_file(services, caller, benchmark_id, "predictions")


@router.get("/{benchmark_id}/manifest", response_class=FileResponse, responses=_file("manifest"))
async def download_manifest(
    benchmark_id: str, services: ServicesDependency, caller: CallerDependency
) -> FileResponse:
    """What the run was: knobs, models and revisions, prompts and their hashes, versions, seed."""
    return await _result_file(services, caller, benchmark_id, "manifest")


@router.get(
    "/{benchmark_id}/metrics-table", response_class=FileResponse, responses=_file("metrics-table")
)
async def download_metrics_table(
    benchmark_id: str, services: ServicesDependency, caller: CallerDependency
) -> FileResponse:
    """The metrics as a table for reading."""
    return await _result_file(services, caller, benchmark_id, "metrics-table")


@router.get("/{benchmark_id}/submissions", responses=problems(404))
async def list_submissions(
    benchmark_id: str, services: ServicesDependency, caller: CallerDependency
) -> SubmissionList:
    """Names of the run's files for evaluation servers; none where the data set has no server."""
    view = await seen(services, caller, benchmark_id)
    return SubmissionList(benchmark_id=benchmark_id, submissions=_submissions(view))


@router.get(
    "/{benchmark_id}/submissions/{name}",
    response_class=FileResponse,
    responses={**content_of("application/json"), **problems(404)},
)
async def download_submission(
    benchmark_id: str, name: str, services: ServicesDependency, caller: CallerDependency
) -> FileResponse:
    """One of those files, as the server takes it."""
    view = await seen(services, caller, benchmark_id)
    if name not in _submissions(view):
        detail = f"run {benchmark_id} ({view.state}) has no submission {name!r}"
        raise ApiError(404, "result-not-there", detail)
    file_name = f"{SUBMISSIONS_FOLDER}/{name}"
    return _file_of_run(services, view, file_name, "application/json", f"submission {name!r}")


def _submissions(view: BenchmarkView) -> list[str]:
    folder = Path(view.run_folder) / SUBMISSIONS_FOLDER
    return sorted(path.name for path in folder.glob("*.json")) if view.run_folder else []


async def listed(
    services: Services, caller: Caller, dataset: str, state: RunState | None
) -> list[BenchmarkView]:
    """The runs a caller may see, newest first; of one data set or in one state, if so wanted."""
    return [
        view
        for view in await services.benchmarks.views()
        if caller.sees(view.owner)
        and (not dataset or view.dataset.lower() == dataset.lower())
        and (state is None or view.state == state)
    ]


async def seen(services: Services, caller: Caller, benchmark_id: str) -> BenchmarkView:
    """A run that the caller may see. Raises: ApiError: 404, also for another key's."""
    view = await services.benchmarks.view(benchmark_id)
    if view is None or not caller.sees(view.owner):
        raise _unknown(benchmark_id)
    return view


async def _events(services: Services, benchmark_id: str) -> Events:
    last: BenchmarkView | None = None
    async for view in services.watches.follow(benchmark_id):
        if view.state in TERMINAL_STATES:
            yield "done", view
            return
        if view != last:
            yield "progress", view
        last = view


async def _result_file(
    services: Services, caller: Caller, benchmark_id: str, kind: str
) -> FileResponse:
    view = await seen(services, caller, benchmark_id)
    return _file_of_run(services, view, *RESULT_FILES[kind], kind)


def _file_of_run(
    services: Services, view: BenchmarkView, file_name: str, media_type: str, kind: str
) -> FileResponse:
    benchmark_id, path = view.id, Path(view.run_folder) / file_name
    runs_folder = services.settings.runs_folder.resolve()
    if not view.run_folder or not path.resolve().is_relative_to(runs_folder) or not path.is_file():
        raise ApiError(
            404,
            "result-not-there",
            f"run {benchmark_id} ({view.state}) has no {kind} yet"
            if view.state in ("queued", "running")
            else f"run {benchmark_id} ({view.state}) has no {kind}: {path} is not there",
        )
    return FileResponse(path, media_type=media_type, filename=f"{benchmark_id}-{path.name}")


def _unknown(benchmark_id: str) -> ApiError:
    detail = f"no benchmark has the id {benchmark_id!r}; GET /v1/benchmarks lists the known ones"
    return ApiError(404, "unknown-benchmark", detail)
