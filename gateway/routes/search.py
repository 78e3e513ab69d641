"""Interactive search over HTTP: one query against an indexed gallery, before all benchmark work."""

from __future__ import annotations

import asyncio

from fastapi import APIRouter, Request
from fastapi.responses import StreamingResponse

from gateway.access import Caller, CallerDependency, needs
from gateway.errors import OF_A_BODY, OF_EVERY_ROUTE, ApiError, problems
from gateway.events import Events, described, event_stream
from gateway.ports import Services, ServicesDependency
from gateway.records import SearchRequest, SearchView

router = APIRouter(
    prefix="/v1/search",
    tags=["search"],
    dependencies=[needs("search")],
    responses=problems(*OF_EVERY_ROUTE),
)


@router.post("", responses=problems(*OF_A_BODY, 404, 409, 504))
async def search(
    body: SearchRequest, services: ServicesDependency, caller: CallerDependency
) -> SearchView:
    """The images that show the reference with the change made, best first, and why."""
    return await services.searches.search(await _by_key(services, caller, body))


@router.post(
    "/stream",
    response_class=StreamingResponse,
    responses={
        **described(SearchView, "coarse", "verified"),
        **problems(*OF_A_BODY, 404, 409, 504),
    },
)
async def stream_search(
    body: SearchRequest, request: Request, services: ServicesDependency, caller: CallerDependency
) -> StreamingResponse:
    """The same as server-sent events: `coarse` as soon as the gallery is ranked, then `verified`.

    The data of both are what `POST /v1/search` answers.
    """
    found = await _by_key(services, caller, body)
    return await event_stream(request, _events(services, found))


async def _by_key(services: Services, caller: Caller, body: SearchRequest) -> SearchRequest:
    """The gallery may be given by its name. One of another key is not there."""
    if not body.gallery:
        if body.database and not caller.is_admin:
            raise ApiError(403, "scope-missing", "only admin searches a database by its key")
        return body
    key = await asyncio.to_thread(services.galleries.key_of, body.gallery, caller)
    return body if key == body.gallery else body.model_copy(update={"gallery": key})


async def _events(services: Services, body: SearchRequest) -> Events:
    async for view in services.searches.stream(body):
        yield ("verified" if view.complete else "coarse"), view
