"""Interactive search over HTTP: one query against an indexed gallery, before all benchmark work."""

from __future__ import annotations

from fastapi import APIRouter

from gateway.ports import ServicesDependency
from gateway.records import SearchRequest, SearchView

router = APIRouter(prefix="/v1/search", tags=["search"])


@router.post("")
async def search(body: SearchRequest, services: ServicesDependency) -> SearchView:
    """The images that show the reference with the change made, best first, and why."""
    return await services.searches.search(body)
