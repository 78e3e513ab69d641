"""Benchmarks over HTTP: submit, watch, fetch results, cancel."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from fastapi import APIRouter, Header, Request, Response
from fastapi.responses import FileResponse

from gateway.errors import ApiError
from gateway.ports import Services, ServicesDependency
from gateway.records import BenchmarkList, BenchmarkRequest, BenchmarkView, SubmissionList
from shared.errors import PermanentError

router = APIRouter(prefix="/v1/benchmarks", tags=["benchmarks"])

RESULT_FILES = {
    "predictions": ("predictions.jsonl", "application/x-ndjson"),
    "manifest": ("manifest.json", "application/json"),
    "metrics-table": ("metrics.txt", "text/plain; charset=utf-8"),
}
"""Route -> (file in the run folder, media type)."""
SUBMISSIONS_FOLDER = "submissions"


@router.post("", status_code=202)
async def submit_benchmark(
    body: BenchmarkRequest,
    request: Request,
    response: Response,
    services: ServicesDependency,
    idempotency_key: Annotated[str, Header(max_length=200)] = "",
) -> BenchmarkView:
    """Queue a run; `Location` says where to watch it. The same `Idempotency-Key`, the same run."""
    benchmark_id = await services.benchmarks.submit(body, idempotency_key)
    response.headers["Location"] = request.url_for("show_benchmark", benchmark_id=benchmark_id).path
    return await _view(services, benchmark_id)


@router.get("")
async def list_benchmarks(services: ServicesDependency) -> BenchmarkList:
    """Known runs, newest first."""
    return BenchmarkList(benchmarks=await services.benchmarks.views())


@router.get("/{benchmark_id}")
async def show_benchmark(benchmark_id: str, services: ServicesDependency) -> BenchmarkView:
    """State, progress by phase, and the metrics once they are there."""
    return await _view(services, benchmark_id)


@router.delete("/{benchmark_id}", status_code=202)
async def cancel_benchmark(benchmark_id: str, services: ServicesDependency) -> BenchmarkView:
    """Stop a run. What it finished stays in its folder; a finished run stays as it is."""
    cancelled = await services.benchmarks.cancel(benchmark_id)
    if cancelled is None:
        raise _unknown(benchmark_id)
    return cancelled


@router.post("/{benchmark_id}/resume", status_code=202)
async def resume_benchmark(benchmark_id: str, services: ServicesDependency) -> BenchmarkView:
    """Queue a failed or cancelled run again; it goes on where it was."""
    try:
        resumed = await services.benchmarks.resume(benchmark_id)
    except PermanentError as error:
        raise ApiError(409, "nothing-to-resume", str(error)) from error
    if resumed is None:
        raise _unknown(benchmark_id)
    return resumed


@router.get("/{benchmark_id}/predictions", response_class=FileResponse)
async def download_predictions(benchmark_id: str, services: ServicesDependency) -> FileResponse:
    """The ranking of every finished query, one JSON object a line."""
    return await _result_file(services, benchmark_id, "predictions")


@router.get("/{benchmark_id}/manifest", response_class=FileResponse)
async def download_manifest(benchmark_id: str, services: ServicesDependency) -> FileResponse:
    """What the run was: knobs, models and revisions, prompts and their hashes, versions, seed."""
    return await _result_file(services, benchmark_id, "manifest")


@router.get("/{benchmark_id}/metrics-table", response_class=FileResponse)
async def download_metrics_table(benchmark_id: str, services: ServicesDependency) -> FileResponse:
    """The metrics as a table for reading."""
    return await _result_file(services, benchmark_id, "metrics-table")


@router.get("/{benchmark_id}/submissions")
async def list_submissions(benchmark_id: str, services: ServicesDependency) -> SubmissionList:
    """Names of the run's files for evaluation servers; none where the data set has no server."""
    view = await _view(services, benchmark_id)
    return SubmissionList(benchmark_id=benchmark_id, submissions=_submissions(view))


@router.get("/{benchmark_id}/submissions/{name}", response_class=FileResponse)
async def download_submission(
    benchmark_id: str, name: str, services: ServicesDependency
) -> FileResponse:
    """One of those files, as the server takes it."""
    view = await _view(services, benchmark_id)
    if name not in _submissions(view):
        detail = f"run {benchmark_id} ({view.state}) has no submission {name!r}"
        raise ApiError(404, "result-not-there", detail)
    file_name = f"{SUBMISSIONS_FOLDER}/{name}"
    return _file_of_run(services, view, file_name, "application/json", f"submission {name!r}")


def _submissions(view: BenchmarkView) -> list[str]:
    folder = Path(view.run_folder) / SUBMISSIONS_FOLDER
    return sorted(path.name for path in folder.glob("*.json")) if view.run_folder else []


async def _view(services: Services, benchmark_id: str) -> BenchmarkView:
    view = await services.benchmarks.view(benchmark_id)
    if view is None:
        raise _unknown(benchmark_id)
    return view


async def _result_file(services: Services, benchmark_id: str, kind: str) -> FileResponse:
    view = await _view(services, benchmark_id)
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
