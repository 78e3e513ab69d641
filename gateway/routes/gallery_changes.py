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

Name = Annotated[str, Path(description="of a gallery that was created by a name")]
IdempotencyKey = Annotated[
    str,
    Header(max_length=200, description="a change sent again with the same key is made once"),
]


@router.post(
    "/{name}/images",
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
    name: Name,
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
    update = await services.gallery_changes.put(name, request, caller, idempotency_key)
    return _with_location(response, update)


@router.post(
    "/{name}/images/remove",
    status_code=202,
    dependencies=[needs("bench")],
    responses=problems(*OF_A_BODY, 404, 409, 507),
)
async def remove_images(
    name: Name,
    body: ImageIds,
    response: Response,
    services: ServicesDependency,
    caller: CallerDependency,
    idempotency_key: IdempotencyKey = "",
) -> GalleryUpdate:
    """Remove several images at once."""
    update = await services.gallery_changes.remove(name, body.image_ids, caller, idempotency_key)
    return _with_location(response, update)


@router.delete(
    "/{name}/images/{image_id:path}",
    status_code=202,
    dependencies=[needs("bench")],
    responses=problems(404, 409, 507),
)
async def remove_image(
    name: Name,
    image_id: str,
    response: Response,
    services: ServicesDependency,
    caller: CallerDependency,
) -> GalleryUpdate:
    """Remove one image. Versions that have it keep it."""
    update = await services.gallery_changes.remove(name, [image_id], caller, "")
    return _with_location(response, update)


@router.post(
    "/{name}/refresh",
    status_code=202,
    dependencies=[needs("bench")],
    responses=problems(404, 409, 507),
)
async def refresh_gallery(
    name: Name, response: Response, services: ServicesDependency, caller: CallerDependency
) -> GalleryUpdate:
    """Read the server folder again: bring in what was added, changed and removed.

    Images that were uploaded stay.
    """
    return _with_location(response, await services.gallery_changes.refresh(name, caller))


@router.get("/{name}/versions", dependencies=[needs("read")], responses=problems(404, 409))
async def list_versions(
    name: Name,
    services: ServicesDependency,
    caller: CallerDependency,
    page_size: PageSize = 100,
    page_token: PageToken = "",
) -> GalleryVersionList:
    """Its versions, the current one first; a benchmark of `gallery:NAME@NUMBER` pins one."""
    return await services.gallery_changes.versions(name, caller, page_size, page_token)


def _with_location(response: Response, update: GalleryUpdate) -> GalleryUpdate:
    response.headers["Location"] = f"/v1/galleries/{update.gallery}/versions"
    return update
