"""An image file, or a small version of it, as an HTTP response that caches well."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

from fastapi import Query, Request, Response

from shared.galleries import ImageFile
from shared.image_files import read_content
from shared.reference_images import kind_of
from shared.thumbnails import MEDIA_TYPE, keep_thumbnail, kept_width

ImageWidth = Annotated[
    int | None, Query(ge=16, le=4096, description="a JPEG about so wide; none = the file")
]
AN_IMAGE: dict[int | str, dict[str, Any]] = {
    200: {
        "description": "The image",
        "content": {"image/*": {"schema": {"type": "string", "format": "binary"}}},
    },
    304: {"description": "The same as `If-None-Match` says"},
}
"""How a route that answers so describes it."""
_HEADERS = {
    "Cache-Control": "private, max-age=3600",
    "X-Content-Type-Options": "nosniff",
    "Content-Security-Policy": "default-src 'none'; sandbox",
}


def image_response(
    request: Request, thumbnails: Path, file: ImageFile, width: int | None
) -> Response:
    """The file as it is, by the type its content has, or a JPEG about so wide.

    Raises: ItemError: missing, damaged, no image, or of too many pixels.
    """
    tag = f'"{file.sha256}"' if width is None else f'"{file.sha256}-{kept_width(width)}"'
    headers = {**_HEADERS, "ETag": tag}
    if tag in (one.strip() for one in request.headers.get("if-none-match", "").split(",")):
        return Response(status_code=304, headers=headers)
    content = read_content(file.path)
    if width is None:
        media_type = kind_of(content).media_type
    else:
        content = keep_thumbnail(thumbnails, file.sha256, width, content)
        media_type = MEDIA_TYPE
    return Response(content, media_type=media_type, headers=headers)
