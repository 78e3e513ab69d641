"""Reference images that are no gallery images, over HTTP: the body is the file."""

from __future__ import annotations

import asyncio

import msgspec
from fastapi import APIRouter, Request, Response

from gateway.access import needs
from gateway.errors import OF_A_BODY, OF_EVERY_ROUTE, ApiError, problems
from gateway.image_responses import AN_IMAGE, ImageWidth, image_response
from gateway.ports import ServicesDependency
from gateway.records import UploadView
from shared.errors import DatasetError, ItemError
from shared.galleries import open_gallery
from shared.reference_images import find_reference, keep_reference

router = APIRouter(
    prefix="/v1/uploads",
    tags=["search"],
    responses=problems(*OF_EVERY_ROUTE),
)


@router.post(
    "",
    status_code=201,
    dependencies=[needs("search")],
    responses=problems(*OF_A_BODY, 507),
    openapi_extra={
        "requestBody": {
            "required": True,
            "content": {
                "application/octet-stream": {"schema": {"type": "string", "format": "binary"}}
            },
        }
    },
)
async def upload_reference(
    request: Request, response: Response, services: ServicesDependency
) -> UploadView:
    """Keep an image for a day as a reference of searches. What it is, its content says."""
    content = await request.body()
    try:
        kept = await asyncio.to_thread(keep_reference, services.settings, content)
    except ItemError as error:
        raise ApiError(422, "no-image", str(error)) from error
    response.headers["Location"] = f"/v1/uploads/{kept.id}"
    fields = msgspec.to_builtins(kept)
    return UploadView.model_validate({n: v for n, v in fields.items() if n != "gallery"})


@router.get(
    "/{upload_id}",
    response_class=Response,
    dependencies=[needs("search")],
    responses={**AN_IMAGE, **problems(404)},
)
async def show_upload(
    upload_id: str, request: Request, services: ServicesDependency, width: ImageWidth = None
) -> Response:
    """The image again, or a small version of it."""

    def answer() -> Response:
        kept = find_reference(services.settings, upload_id)
        file = open_gallery(services.settings.galleries_folder, kept.gallery).image_file(0)
        return image_response(request, services.settings.thumbnails_folder, file, width)

    try:
        return await asyncio.to_thread(answer)
    except (DatasetError, ItemError) as error:
        raise ApiError(404, "unknown-upload", str(error)) from error
