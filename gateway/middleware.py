"""What surrounds every request: its id, the limit of its body, and its count in the metrics."""

from __future__ import annotations

import re
import uuid
from collections.abc import Callable, Mapping

from prometheus_client import Counter
from starlette.requests import Request
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from gateway.errors import ApiError, problem_response

SEARCHES = frozenset({"/v1/search", "/v1/search/stream"})
_REQUEST_ID = re.compile(rb"^[A-Za-z0-9._-]{1,64}$")


class RequestIds:
    """Takes the client's X-Request-ID, or makes one; every response carries it back."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        given = dict(scope["headers"]).get(b"x-request-id", b"")
        request_id = given.decode() if _REQUEST_ID.match(given) else uuid.uuid4().hex
        scope.setdefault("state", {})["request_id"] = request_id

        async def send_with_id(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = [*message.get("headers", []), (b"x-request-id", request_id.encode())]
                message = {**message, "headers": headers}
            await send(message)

        await self._app(scope, receive, send_with_id)


class SearchAdmission:
    """Refuses a search at once where as many are under way as may be: its body is not read."""

    def __init__(self, app: ASGIApp, check_place: Callable[[], None]) -> None:
        """`check_place` raises ApiError 429."""
        self._app = app
        self._check_place = check_place

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http" and scope["path"] in SEARCHES and scope["method"] == "POST":
            try:
                self._check_place()
            except ApiError as error:
                await problem_response(Request(scope), error)(scope, receive, send)
                return
        await self._app(scope, receive, send)


class BodyLimit:
    """Answers 413 to a body that is too large. Small bodies are read whole before the application
    sees them; those of uploads pass through, and are counted on their way.
    """

    def __init__(self, app: ASGIApp, limit_bytes: int, uploads: Mapping[str, int]) -> None:
        """`uploads`: regular expression -> limit in bytes, of the paths that take files."""
        self._app = app
        self._limit_bytes = limit_bytes
        self._uploads = [(re.compile(path), limit) for path, limit in uploads.items()]

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        headers = dict(scope["headers"])
        is_upload = not headers.get(b"content-type", b"").startswith(b"application/json")
        limits = (limit for path, limit in self._uploads if path.fullmatch(scope["path"]))
        upload = next(limits, None) if is_upload else None
        limit_bytes = self._limit_bytes if upload is None else upload
        declared = headers.get(b"content-length", b"0")
        if declared.isdigit() and int(declared) > limit_bytes:
            await problem_response(Request(scope), _too_large(limit_bytes))(scope, receive, send)
        elif upload is not None:
            await self._app(scope, _counted(receive, limit_bytes), send)
        else:
            await self._with_body(scope, receive, send)

    async def _with_body(self, scope: Scope, receive: Receive, send: Send) -> None:
        body, more = b"", True
        while more:
            message = await receive()
            if message["type"] == "http.disconnect":
                return
            body += message.get("body", b"")
            more = message.get("more_body", False)
            if len(body) > self._limit_bytes:
                error = _too_large(self._limit_bytes)
                await problem_response(Request(scope), error)(scope, receive, send)
                return
        delivered = False

        async def replay() -> Message:
            nonlocal delivered
            if delivered:
                return await receive()
            delivered = True
            return {"type": "http.request", "body": body, "more_body": False}

        await self._app(scope, replay, send)


def _too_large(limit_bytes: int) -> ApiError:
    detail = f"a request body may have at most {limit_bytes} bytes here"
    return ApiError(413, "body-too-large", detail)


def _counted(receive: Receive, limit_bytes: int) -> Receive:
    """The same, until it has been more than so many bytes. Raises: ApiError."""
    seen = 0

    async def counting() -> Message:
        nonlocal seen
        message = await receive()
        seen += len(message.get("body", b""))
        if seen > limit_bytes:
            raise _too_large(limit_bytes)
        return message

    return counting


class RequestCounts:
    """Counts responses by method, route template (never the raw path) and status."""

    def __init__(self, app: ASGIApp, counter: Counter) -> None:
        self._app = app
        self._counter = counter

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return

        async def send_and_count(message: Message) -> None:
            if message["type"] == "http.response.start":
                route = getattr(scope.get("route"), "path", "unknown")
                self._counter.labels(scope["method"], route, str(message["status"])).inc()
            await send(message)

        await self._app(scope, receive, send_and_count)
