"""Who asks, and whether they may: API keys and rate limits, before a body is read."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any, cast

from fastapi import Depends, Request
from redis.asyncio import Redis
from starlette.types import ASGIApp, Receive, Scope, Send

from gateway import api_keys
from gateway.api_keys import ApiKeys
from gateway.errors import ApiError, problem_response
from gateway.rate_limits import RateLimits
from shared.settings import Settings

PROTECTED_PREFIX = "/v1/"
"""Health, metrics, the description and the page are open; everything of the API is not."""
_LOCAL = ("127.0.0.1", "::1", "localhost")


@dataclass(frozen=True)
class Caller:
    """Who asks.

    Attributes:
        id: of the API key; empty where keys are off.
        scopes: what they may do; "admin" may do everything and sees everybody's runs.
    """

    id: str
    scopes: frozenset[str]

    @property
    def is_admin(self) -> bool:
        return "admin" in self.scopes

    def may(self, scope: str) -> bool:
        # Who may start runs may look at them.
        reads = scope == "read" and "bench" in self.scopes
        return self.is_admin or reads or scope in self.scopes

    def sees(self, owner: str) -> bool:
        """Whether something that `owner` made is there for them."""
        return self.is_admin or owner == self.id


EVERYBODY = Caller("", frozenset(api_keys.SCOPES))


def keys_are_required(settings: Settings) -> bool:
    """By XR_API_KEYS; "auto" asks for keys where others than this machine can reach the port."""
    if settings.api_keys == "auto":
        return settings.gateway_host not in _LOCAL
    return settings.api_keys == "required"


class Access:
    """Puts the caller into the request's state, or answers 401 or 429."""

    def __init__(self, app: ASGIApp, settings: Settings, redis: Redis) -> None:
        self._app = app
        self._keys = ApiKeys(settings.home)
        self._required = keys_are_required(settings)
        per_s = settings.rate_limit_per_s
        self._limits = RateLimits(redis, per_s) if per_s else None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        protected = scope["type"] == "http" and scope["path"].startswith(PROTECTED_PREFIX)
        if not protected or scope["method"] == "OPTIONS":
            await self._app(scope, receive, send)
            return
        request = Request(scope)
        try:
            caller = self._caller(request)
            if self._limits is not None:
                address = request.client.host if request.client else ""
                await self._limits.check(caller.id or address)
        except ApiError as error:
            headers = {"WWW-Authenticate": "Bearer"} if error.status == 401 else {}
            await problem_response(request, error, headers)(scope, receive, send)
            return
        scope.setdefault("state", {})["caller"] = caller
        await self._app(scope, receive, send)

    def _caller(self, request: Request) -> Caller:
        if not self._required:
            return EVERYBODY
        kind, _, token = request.headers.get("authorization", "").partition(" ")
        if kind.lower() != "bearer":
            token = request.headers.get("x-api-key", "")
        if not token:
            raise ApiError(
                401,
                "key-missing",
                "this gateway asks for an API key: Authorization: Bearer KEY (`xr keys create`)",
            )
        key = self._keys.find(token.strip())
        if key is None:
            raise ApiError(401, "key-unknown", "the API key is none of this gateway's")
        if key.state != "valid":
            raise ApiError(401, f"key-{key.state}", f"the API key {key.id} is {key.state}")
        return Caller(key.id, frozenset(key.scopes))


async def caller_of(request: Request) -> Caller:  # async: others are run in threads
    return cast(Caller, getattr(request.state, "caller", EVERYBODY))


CallerDependency = Annotated[Caller, Depends(caller_of)]


def needs(scope: str) -> Any:
    """A route's dependency: the caller's key has this scope, else 403."""

    async def check(caller: CallerDependency) -> None:
        if not caller.may(scope):
            raise ApiError(
                403, "scope-missing", f"the API key {caller.id} lacks the scope {scope!r}"
            )

    return Depends(check)
