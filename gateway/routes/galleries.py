"""Galleries over HTTP: create from a server folder or an upload, browse, look at images, delete."""

from __future__ import annotations

import asyncio
from typing import Annotated

import msgspec
from fastapi import APIRouter, Header, Request, Response
from pydantic import ValidationError

from gateway.abandoned_uploads import discard_upload
from gateway.access import CallerDependency, needs
from gateway.errors import OF_A_BODY, OF_EVERY_ROUTE, ApiError, problems
from gateway.gallery_uploads import UPLOAD_FORM, receive_gallery
from gateway.image_responses import AN_IMAGE, ImageWidth, image_response
from gateway.pages import PageSize, PageToken
from gateway.ports import ServicesDependency
from gateway.records import (
    GalleryField,
    GalleryFieldList,
    GalleryImageList,
    GalleryList,
    GalleryRequest,
    GalleryView,
)
from shared.datasets.registry import FOLDER_PREFIX
from shared.errors import DatasetError, ItemError
from shared.metadata import describe_fields

router = APIRouter(
    prefix="/v1/galleries",
    tags=["galleries"],
    responses=problems(*OF_EVERY_ROUTE),
)


@router.get("", dependencies=[needs("read")])
async def list_galleries(
    services: ServicesDependency,
    caller: CallerDependency,
    page_size: PageSize = 100,
    page_token: PageToken = "",
) -> GalleryList:
    """All galleries, last used first."""
    return await services.galleries.views(caller, page_size, page_token)


@router.post(
    "",
    status_code=202,
    dependencies=[needs("bench")],
    responses=problems(*OF_A_BODY, 409, 415, 507),
    openapi_extra={
        "requestBody": {
            "required": True,
            "content": {
                "application/json": {"schema": {"$ref": "#/components/schemas/GalleryRequest"}},
                "multipart/form-data": {"schema": UPLOAD_FORM},
            },
        }
    },
)
async def create_gallery(
    request: Request,
    response: Response,
    services: ServicesDependency,
    caller: CallerDependency,
    idempotency_key: Annotated[str, Header(max_length=200)] = "",
) -> GalleryView:
    """A gallery of the images in a server folder (JSON), or of images or a zip file (form).

    It is indexed in the background; its own address shows how far.
    """
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind == "multipart/form-data":
        name, folder = await receive_gallery(request, services.settings)
        try:
            view = await services.galleries.create(
                name, f"{FOLDER_PREFIX}{folder}", caller, idempotency_key, uploaded=True
            )
        except BaseException:
            await asyncio.to_thread(discard_upload, services.settings, folder)
            raise
    elif kind == "application/json":
        wanted = await _json_body(request)
        view = await services.galleries.create(
            wanted.name, f"{FOLDER_PREFIX}{wanted.folder}", caller, idempotency_key
        )
    else:
        detail = f"a gallery comes as application/json or multipart/form-data, not as {kind!r}"
        raise ApiError(415, "unsupported-media-type", detail)
    response.headers["Location"] = f"/v1/galleries/{view.name}"
    return view


@router.get("/{key}", dependencies=[needs("read")], responses=problems(404))
async def show_gallery(
    key: str, services: ServicesDependency, caller: CallerDependency
) -> GalleryView:
    """Whether it can be searched, and how far its index is. `key` is its key or its name."""
    return await services.galleries.view(key, caller)


@router.delete(
    "/{key}", status_code=204, dependencies=[needs("bench")], responses=problems(404, 409)
)
async def delete_gallery(
    key: str, services: ServicesDependency, caller: CallerDependency
) -> Response:
    """Forget it, its captions and embeddings; images that were uploaded go, too."""
    await services.galleries.delete(key, caller)
    return Response(status_code=204)


@router.get("/{key}/images", dependencies=[needs("read")], responses=problems(404, 409))
async def list_images(
    key: str,
    services: ServicesDependency,
    caller: CallerDependency,
    page_size: PageSize = 100,
    page_token: PageToken = "",
) -> GalleryImageList:
    """Its images with their captions, in its order."""
    return await services.galleries.images(key, caller, page_size, page_token)


@router.get("/{key}/fields", dependencies=[needs("read")], responses=problems(404, 409))
async def list_fields(
    key: str, services: ServicesDependency, caller: CallerDependency
) -> GalleryFieldList:
    """What is known of its images, for the `filter` of a search."""
    gallery = await asyncio.to_thread(services.galleries.open, key, caller)
    try:
        found = await asyncio.to_thread(describe_fields, gallery)
    except DatasetError as error:
        raise ApiError(409, "metadata-damaged", str(error)) from error
    return GalleryFieldList(
        gallery=gallery.key,
        fields=[GalleryField.model_validate(msgspec.to_builtins(one)) for one in found],
    )


@router.get(
    "/{key}/images/{image_id:path}",
    response_class=Response,
    dependencies=[needs("read")],
    responses={**AN_IMAGE, **problems(404, 409)},
)
async def show_image(
    key: str,
    image_id: str,
    request: Request,
    services: ServicesDependency,
    caller: CallerDependency,
    width: ImageWidth = None,
) -> Response:
    """An image as it is, or a small version of it."""
    gallery = await asyncio.to_thread(services.galleries.open, key, caller)
    try:
        file = await asyncio.to_thread(lambda: gallery.image_file(gallery.row_of(image_id)))
        return await asyncio.to_thread(
            image_response, request, services.settings.thumbnails_folder, file, width
        )
    except DatasetError as error:
        raise ApiError(404, "unknown-image", str(error)) from error
    except ItemError as error:
        raise ApiError(404, "image-unreadable", str(error)) from error


async def _json_body(request: Request) -> GalleryRequest:
    try:
        return GalleryRequest.model_validate_json(await request.body())
    except ValidationError as error:
        told = "; ".join(
            f"{'/'.join(map(str, fault['loc']))}: {fault['msg']}" for fault in error.errors()
        )
        raise ApiError(422, "invalid-request", told) from error
