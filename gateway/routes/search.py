"""Interactive search over HTTP: one query against an indexed gallery, before all benchmark work."""

from __future__ import annotations

from fastapi import APIRouter, Request
from fastapi.responses import StreamingResponse

from gateway.events import Events, event_stream
from gateway.ports import Services, ServicesDependency
from gateway.records import SearchRequest, SearchView

router = APIRouter(prefix="/v1/search", tags=["search"])


@router.post("")
async def search(body: SearchRequest, services: ServicesDependency) -> SearchView:
    """The images that show the reference with the change made, best first, and why."""
    return await services.searches.search(body)


@router.post("/stream", response_class=StreamingResponse)
async def stream_search(
    body: SearchRequest, request: Request, services: ServicesDependency
) -> StreamingResponse:
    """The same as server-sent events: `coarse` as soon as the gallery is ranked, then `verified`.

    The data of both are what `POST /v1/search` answers.
    """
    return await event_stream(request, _events(services, body))


async def _events(services: Services, body: SearchRequest) -> Events:
    async for view in services.searches.stream(body):
        yield ("verified" if view.complete else "coarse"), view
