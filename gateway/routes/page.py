"""The web page and its files, under a policy that runs no script but its own."""

from __future__ import annotations

import hashlib
from typing import NamedTuple

from fastapi import APIRouter, Request, Response

from gateway.errors import ApiError
from gateway.web import FOLDER

router = APIRouter(include_in_schema=False)

POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' blob: data:; "
    "connect-src 'self'; form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
)
_TYPES = {
    ".html": "text/html; charset=utf-8",
    ".css": "text/css; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".svg": "image/svg+xml",
}
_HEADERS = {
    "Content-Security-Policy": POLICY,
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "no-cache",  # asked for again each time, answered by 304 while unchanged
}


class _File(NamedTuple):
    content: bytes
    media_type: str
    etag: str


def _read_files() -> dict[str, _File]:
    files = {}
    for path in sorted(FOLDER.rglob("*")):
        if path.suffix in _TYPES:
            content = path.read_bytes()
            etag = f'"{hashlib.sha256(content).hexdigest()[:16]}"'
            name = path.relative_to(FOLDER).as_posix()
            files[name] = _File(content, _TYPES[path.suffix], etag)
    return files


_FILES = _read_files()
"""All there is: a path that is no key here is no file, wherever it points."""


@router.get("/")
async def page(request: Request) -> Response:
    """The web page."""
    return _answer("index.html", request)


@router.get("/web/{name:path}")
async def file_of_page(name: str, request: Request) -> Response:
    """A stylesheet, module or picture of the page."""
    if name not in _FILES:
        raise ApiError(404, "no-such-file", f"the web page has no file {name!r}")
    return _answer(name, request)


def _answer(name: str, request: Request) -> Response:
    file = _FILES[name]
    headers = {**_HEADERS, "ETag": file.etag}
    if request.headers.get("if-none-match") == file.etag:
        return Response(status_code=304, headers=headers)
    return Response(file.content, media_type=file.media_type, headers=headers)
