"""Errors of the HTTP API as problem details (RFC 9457, application/problem+json)."""

from __future__ import annotations

import errno
import logging
from collections.abc import Mapping
from http import HTTPStatus
from typing import Any

import redis.exceptions
from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from starlette.exceptions import HTTPException
from starlette.routing import Match, Route

from gateway.records import Problem
from shared.errors import PermanentError, TransientError, XRError

MEDIA_TYPE = "application/problem+json"
TYPE_PREFIX = "urn:xr:problem:"
_DISK_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EROFS)
REDIS_AWAY = (redis.exceptions.ConnectionError, redis.exceptions.TimeoutError)
_RETRY_AFTER_S = 5
_log = logging.getLogger(__name__)


class ApiError(XRError):
    """An error with its HTTP status.

    Attributes:
        slug: the last part of the problem's type.
        extra: further members of the problem, e.g. the names that would have been right;
            `retry_after_s` becomes the header Retry-After, too.
    """

    def __init__(self, status: int, slug: str, detail: str, **extra: Any) -> None:
        super().__init__(detail)
        self.status = status
        self.slug = slug
        self.extra = extra

    @property
    def headers(self) -> dict[str, str]:
        wait_s = self.extra.get("retry_after_s")
        return {} if wait_s is None else {"Retry-After": str(wait_s)}


def explained(error: Exception) -> ApiError:
    """What an error is for whoever asked. Not one word of a defect leaves the house."""
    if isinstance(error, ApiError):
        return error
    if isinstance(error, PermanentError):
        return ApiError(422, "not-possible", str(error))
    if isinstance(error, TransientError):
        return ApiError(503, "unavailable", str(error), retry_after_s=_RETRY_AFTER_S)
    if isinstance(error, REDIS_AWAY):
        detail = (
            "Redis cannot be reached, so nothing can be queued or looked up now; "
            f"the gateway keeps trying with every request ({error})"
        )
        return ApiError(503, "redis-unreachable", detail, retry_after_s=_RETRY_AFTER_S)
    if isinstance(error, redis.exceptions.ResponseError):
        detail = f"Redis refuses the command ({error}): see its memory, disk and access rights"
        return ApiError(503, "redis-refuses", detail, retry_after_s=_RETRY_AFTER_S)
    if isinstance(error, OSError) and error.errno in _DISK_FULL:
        detail = f"{error.filename or 'the shared folder'}: {error.strerror}: make room there"
        return ApiError(507, "disk-full", detail)
    if isinstance(error, RequestValidationError):
        errors = [
            {"where": "/".join(str(part) for part in fault["loc"]), "detail": fault["msg"]}
            for fault in error.errors()
        ]
        detail = "; ".join(f"{fault['where']}: {fault['detail']}" for fault in errors)
        return ApiError(422, "invalid-request", detail, errors=errors)
    return ApiError(500, "defect", "a defect of the gateway; its log has the details")


def problem_of(request: Request, error: Exception) -> Problem:
    """A problem; `instance` is the path asked for, `request_id` finds it in the log."""
    told = explained(error)
    if told.slug == "defect":
        _log.error("defect in %s %s", request.method, request.url.path, exc_info=error)
    return Problem(
        type=f"{TYPE_PREFIX}{told.slug}",
        title=HTTPStatus(told.status).phrase,
        status=told.status,
        detail=str(told),
        instance=request.url.path,
        request_id=getattr(request.state, "request_id", ""),
        **told.extra,
    )


def problem_response(
    request: Request, error: Exception, headers: Mapping[str, str] | None = None
) -> JSONResponse:
    """The same as a response."""
    told = explained(error)
    return JSONResponse(
        problem_of(request, error).model_dump(mode="json"),
        status_code=told.status,
        media_type=MEDIA_TYPE,
        headers={**told.headers, **(headers or {})},
    )


def problems(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """Those a route answers with, for the description of its responses."""
    return {status: _described(status) for status in statuses}


def content_of(media_type: str) -> dict[int | str, dict[str, Any]]:
    """A response 200 that is no JSON record."""
    schema = {} if media_type == "application/json" else {"type": "string"}
    return {200: {"description": "OK", "content": {media_type: {"schema": schema}}}}


def _described(status: int) -> dict[str, Any]:
    described: dict[str, Any] = {
        "description": f"{HTTPStatus(status).phrase}, as problem details (RFC 9457)",
        "content": {MEDIA_TYPE: {"schema": {"$ref": f"#/components/schemas/{Problem.__name__}"}}},
    }
    if status == HTTPStatus.TOO_MANY_REQUESTS:
        wait = {"type": "integer", "minimum": 1}
        described["headers"] = {
            "Retry-After": {"required": True, "schema": wait, "description": "seconds"}
        }
    return described


OF_EVERY_ROUTE = (401, 403, 422, 429, 503)
"""No key, too few scopes, a wrong parameter, too many requests, something is away."""
OF_A_BODY = (400, 413)
"""It cannot be read at all, or is too large."""


def install_error_handlers(app: FastAPI) -> None:
    """Every error leaves the application as a problem, also the framework's own."""

    async def on_error(request: Request, error: Exception) -> JSONResponse:
        return problem_response(request, error)

    kinds = (XRError, *REDIS_AWAY, redis.exceptions.ResponseError, OSError, RequestValidationError)
    for kind in (*kinds, Exception):
        app.add_exception_handler(kind, on_error)

    @app.exception_handler(HTTPException)
    async def on_http_error(request: Request, error: HTTPException) -> JSONResponse:
        slug = HTTPStatus(error.status_code).phrase.lower().replace(" ", "-")
        detail = f"{request.method} {request.url.path}: {error.detail}"
        told = ApiError(error.status_code, slug, detail)
        if error.status_code == HTTPStatus.METHOD_NOT_ALLOWED:
            # The framework names the methods of one route only, and a path may have several
            headers = {"Allow": ", ".join(_methods_of(app, request))}
            return problem_response(request, told, headers)
        return problem_response(request, told, error.headers)


def _methods_of(app: FastAPI, request: Request) -> list[str]:
    """The methods that the path asked for has."""
    found = {
        method
        for route in app.routes
        if isinstance(route, Route) and route.matches(request.scope)[0] is not Match.NONE
        for method in route.methods or ()
    }
    return sorted(found)
