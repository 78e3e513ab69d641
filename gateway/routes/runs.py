"""Runs on the shared volume over HTTP: in short, in detail, and two of them side by side."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Query

from gateway.access import CallerDependency, needs
from gateway.errors import OF_EVERY_ROUTE, problems
from gateway.pages import PageSize, PageToken, page_of
from gateway.ports import ServicesDependency
from gateway.records import BenchmarkView, RunComparison, RunDetails, RunList, RunSummary
from gateway.routes.benchmarks import InState, OfDataset, listed, seen

router = APIRouter(
    prefix="/v1/runs",
    tags=["runs"],
    dependencies=[needs("read")],
    responses=problems(*OF_EVERY_ROUTE),
)


@router.get("")
async def list_runs(
    services: ServicesDependency,
    caller: CallerDependency,
    dataset: OfDataset = "",
    state: InState = None,
    page_size: PageSize = 100,
    page_token: PageToken = "",
) -> RunList:
    """All runs in short, newest first."""
    views = await listed(services, caller, dataset, state)
    shown, following = page_of(views, page_size, page_token)
    return RunList(
        runs=[_summary(view) for view in shown], total=len(views), next_page_token=following
    )


@router.get("/{run_id}", responses=problems(404))
async def show_run(
    run_id: str, services: ServicesDependency, caller: CallerDependency
) -> RunDetails:
    """What the run was (its manifest) and everything that was measured (its metrics)."""
    view = await seen(services, caller, run_id)
    manifest, results = await services.benchmarks.files(run_id)
    return RunDetails(benchmark=view, manifest=manifest, results=results)


@router.get("/{run_id}/comparison/{other_id}", responses=problems(404, 409))
async def compare_runs(
    run_id: str,
    other_id: str,
    services: ServicesDependency,
    caller: CallerDependency,
    k: Annotated[int | None, Query(ge=1, le=100_000, description="what counts as a hit")] = None,
) -> RunComparison:
    """Two finished runs of one data set: paired metrics with intervals, queries won and lost."""
    for run in (run_id, other_id):
        await seen(services, caller, run)
    return await services.benchmarks.compare(run_id, other_id, k)


def _summary(view: BenchmarkView) -> RunSummary:
    last = list(view.metrics.values())[-1] if view.metrics else {}
    return RunSummary(
        id=view.id,
        dataset=view.dataset,
        split=view.split,
        name=view.name,
        state=view.state,
        submitted_at=view.submitted_at,
        metrics=last,
        counts=view.counts,
    )
