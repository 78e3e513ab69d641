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

from shared.errors import PermanentError, TransientError, XRError

MEDIA_TYPE = "application/problem+json"
TYPE_PREFIX = "urn:xr:problem:"
_DISK_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EROFS)
REDIS_AWAY = (redis.exceptions.ConnectionError, redis.exceptions.TimeoutError)
_log = logging.getLogger(__name__)


class ApiError(XRError):
    """An error with its HTTP status.

    Attributes:
        slug: the last part of the problem's type.
        extra: further members of the problem, e.g. the names that would have been right.
    """

    def __init__(self, status: int, slug: str, detail: str, **extra: Any) -> None:
        super().__init__(detail)
        self.status = status
        self.slug = slug
        self.extra = extra


def problem(
    request: Request,
    status: int,
    slug: str,
    detail: str,
    extra: Mapping[str, Any] | None = None,
    headers: Mapping[str, str] | None = None,
) -> JSONResponse:
    """A problem response; `instance` is the path asked for, `request_id` finds it in the log."""
    body = {
        "type": f"{TYPE_PREFIX}{slug}",
        "title": HTTPStatus(status).phrase,
        "status": status,
        "detail": detail,
        "instance": request.url.path,
        "request_id": getattr(request.state, "request_id", ""),
        **(extra or {}),
    }
    return JSONResponse(body, status_code=status, media_type=MEDIA_TYPE, headers=headers)


def install_error_handlers(app: FastAPI) -> None:
    """Every error leaves the application as a problem, also the framework's own."""

    @app.exception_handler(ApiError)
    async def on_api_error(request: Request, error: ApiError) -> JSONResponse:
        return problem(request, error.status, error.slug, str(error), error.extra)

    @app.exception_handler(PermanentError)
    async def on_permanent_error(request: Request, error: PermanentError) -> JSONResponse:
        return problem(request, 422, "not-possible", str(error))

    @app.exception_handler(TransientError)
    async def on_transient_error(request: Request, error: TransientError) -> JSONResponse:
        return problem(request, 503, "unavailable", str(error), headers={"Retry-After": "5"})

    async def on_redis_away(request: Request, error: Exception) -> JSONResponse:
        detail = (
            "Redis cannot be reached, so nothing can be queued or looked up now; "
            f"the gateway keeps trying with every request ({error})"
        )
        return problem(request, 503, "redis-unreachable", detail, headers={"Retry-After": "5"})

    for away in REDIS_AWAY:
        app.add_exception_handler(away, on_redis_away)

    @app.exception_handler(redis.exceptions.ResponseError)
    async def on_redis_refusal(request: Request, error: Exception) -> JSONResponse:
        detail = f"Redis refuses the command ({error}): see its memory, disk and access rights"
        return problem(request, 503, "redis-refuses", detail, headers={"Retry-After": "5"})

    @app.exception_handler(OSError)
    async def on_full_disk(request: Request, error: OSError) -> JSONResponse:
        if error.errno not in _DISK_FULL:
            return await on_defect(request, error)
        detail = f"{error.filename or 'the shared folder'}: {error.strerror}: make room there"
        return problem(request, 507, "disk-full", detail)

    @app.exception_handler(RequestValidationError)
    async def on_invalid_request(request: Request, error: RequestValidationError) -> JSONResponse:
        errors = [
            {"where": "/".join(str(part) for part in fault["loc"]), "detail": fault["msg"]}
            for fault in error.errors()
        ]
        detail = "; ".join(f"{fault['where']}: {fault['detail']}" for fault in errors)
        return problem(request, 422, "invalid-request", detail, {"errors": errors})

    @app.exception_handler(HTTPException)
    async def on_http_error(request: Request, error: HTTPException) -> JSONResponse:
        slug = HTTPStatus(error.status_code).phrase.lower().replace(" ", "-")
        detail = f"{request.method} {request.url.path}: {error.detail}"
        return problem(request, error.status_code, slug, detail, headers=error.headers)

    @app.exception_handler(Exception)
    async def on_defect(request: Request, error: Exception) -> JSONResponse:
        _log.error("defect in %s %s", request.method, request.url.path, exc_info=error)
        return problem(request, 500, "defect", "a defect of the gateway; its log has the details")
