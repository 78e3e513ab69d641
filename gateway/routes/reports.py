"""The report of a finished run over HTTP."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Query
from fastapi.responses import HTMLResponse

from gateway.access import CallerDependency, needs
from gateway.errors import OF_EVERY_ROUTE, ApiError, problems
from gateway.ports import ServicesDependency
from gateway.reports import Form
from gateway.routes.benchmarks import seen
from shared.errors import DatasetError

router = APIRouter(
    prefix="/v1/benchmarks",
    tags=["benchmarks"],
    dependencies=[needs("read")],
    responses=problems(*OF_EVERY_ROUTE),
)

_POLICY = "default-src 'none'; img-src data:; style-src 'unsafe-inline'; sandbox"


@router.get("/{benchmark_id}/report", response_class=HTMLResponse, responses=problems(404, 409))
async def show_report(
    benchmark_id: str,
    services: ServicesDependency,
    caller: CallerDependency,
    form: Annotated[Form, Query(description="a file of its own, or a part of the web page")] = (
        "file"
    ),
) -> HTMLResponse:
    """Curves, gains, rank changes, hardest queries and failures of a finished run, as HTML."""
    view = await seen(services, caller, benchmark_id)
    if view.state != "finished":
        detail = f"run {benchmark_id} is {view.state}: only finished runs have a report"
        raise ApiError(409, "not-finished", detail)
    try:
        html = await services.reports.html(benchmark_id, form)
    except DatasetError as error:
        raise ApiError(409, "data-not-there", str(error)) from error
    return HTMLResponse(html, headers={"Content-Security-Policy": _POLICY})
