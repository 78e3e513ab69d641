"""Changing named galleries over HTTP: add, replace and remove images, refresh, versions."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Header, Path, Request, Response

from gateway.access import CallerDependency, needs
from gateway.errors import OF_A_BODY, OF_EVERY_ROUTE, problems
from gateway.gallery_changes import IMAGES_FORM
from gateway.pages import PageSize, PageToken
from gateway.ports import ServicesDependency
from gateway.records import GalleryUpdate, GalleryVersionList, ImageIds

router = APIRouter(
    prefix="/v1/galleries",
    tags=["galleries"],
    responses=problems(*OF_EVERY_ROUTE),
)

Key = Annotated[str, Path(description="the name of a gallery")]
IdempotencyKey = Annotated[
    str,
    Header(max_length=200, description="a change sent again with the same key is made once"),
]


@router.post(
    "/{key}/images",
    status_code=202,
    dependencies=[needs("bench")],
    responses=problems(*OF_A_BODY, 404, 409, 415, 507),
    openapi_extra={
        "requestBody": {
            "required": True,
            "content": {"multipart/form-data": {"schema": IMAGES_FORM}},
        }
    },
)
async def put_images(
    key: Key,
    request: Request,
    response: Response,
    services: ServicesDependency,
    caller: CallerDependency,
    idempotency_key: IdempotencyKey = "",
) -> GalleryUpdate:
    """Add images, or replace those that have the same ids; set metadata.

    Searches see all of it at once, as soon as a new version of the gallery is ready. Only the new
    images cost anything.
    """
    update = await services.gallery_changes.put(key, request, caller, idempotency_key)
    return _with_location(response, update)


@router.post(
    "/{key}/removals",
    status_code=202,
    dependencies=[needs("bench")],
    responses=problems(*OF_A_BODY, 404, 409, 507),
)
async def remove_images(
    key: Key,
    body: ImageIds,
    response: Response,
    services: ServicesDependency,
    caller: CallerDependency,
    idempotency_key: IdempotencyKey = "",
) -> GalleryUpdate:
    """Remove several images at once."""
    update = await services.gallery_changes.remove(key, body.image_ids, caller, idempotency_key)
    return _with_location(response, update)


@router.delete(
    "/{key}/images/{image_id:path}",
    status_code=202,
    dependencies=[needs("bench")],
    responses=problems(404, 409, 507),
)
async def remove_image(
    key: Key,
    image_id: str,
    response: Response,
    services: ServicesDependency,
    caller: CallerDependency,
) -> GalleryUpdate:
    """Remove one image. Versions that have it keep it."""
    update = await services.gallery_changes.remove(key, [image_id], caller, "")
    return _with_location(response, update)


@router.post(
    "/{key}/refresh",
    status_code=202,
    dependencies=[needs("bench")],
    responses=problems(404, 409, 507),
)
async def refresh_gallery(
    key: Key, response: Response, services: ServicesDependency, caller: CallerDependency
) -> GalleryUpdate:
    """Read the server folder again: bring in what was added, changed and removed.

    Images that were uploaded stay.
    """
    return _with_location(response, await services.gallery_changes.refresh(key, caller))


@router.get("/{key}/versions", dependencies=[needs("read")], responses=problems(404, 409))
async def list_versions(
    key: Key,
    services: ServicesDependency,
    caller: CallerDependency,
    page_size: PageSize = 100,
    page_token: PageToken = "",
) -> GalleryVersionList:
    """Its versions, the current one first; a benchmark of `gallery:NAME@NUMBER` pins one."""
    return await services.gallery_changes.versions(key, caller, page_size, page_token)


def _with_location(response: Response, update: GalleryUpdate) -> GalleryUpdate:
    response.headers["Location"] = f"/v1/galleries/{update.gallery}/versions"
    return update
