"""Who asks, and whether they may: API keys and rate limits, before a body is read."""

from __future__ import annotations

import math
import time
from collections import OrderedDict
from dataclasses import dataclass
from typing import Annotated, Any, cast

from fastapi import Depends, Request
from starlette.types import ASGIApp, Receive, Scope, Send

from gateway import api_keys
from gateway.api_keys import ApiKeys
from gateway.errors import ApiError, problem_response
from shared.settings import Settings

OPEN_PREFIX, PROTECTED_PREFIX = "/", "/v1/"
"""Health, metrics, the description and the page are open; everything of the API is not."""
_LOCAL = ("127.0.0.1", "::1", "localhost")
_MOST_BUCKETS = 10_000


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
        return self.is_admin or scope in self.scopes

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

    def __init__(self, app: ASGIApp, settings: Settings) -> None:
        self._app = app
        self._keys = ApiKeys(settings.home)
        self._required = keys_are_required(settings)
        self._limits = RateLimits(settings.rate_limit_per_s) if settings.rate_limit_per_s else None

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
                self._limits.check(caller.id or address)
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


class RateLimits:
    """A bucket of a second's requests per caller, that fills again at the allowed rate."""

    def __init__(self, per_s: float) -> None:
        self._per_s = per_s
        self._most = max(1.0, per_s)
        self._buckets: OrderedDict[str, tuple[float, float]] = OrderedDict()

    def check(self, who: str, now_s: float | None = None) -> None:
        """Take one. Raises: ApiError: 429, with the time after which there is one again."""
        now_s = time.monotonic() if now_s is None else now_s
        left, at_s = self._buckets.pop(who, (self._most, now_s))
        left = min(self._most, left + (now_s - at_s) * self._per_s)
        allowed = left >= 1.0
        self._buckets[who] = (left - 1.0 if allowed else left, now_s)
        while len(self._buckets) > _MOST_BUCKETS:  # the ones seen last are kept
            self._buckets.popitem(last=False)
        if not allowed:
            wait_s = max(1, math.ceil((1.0 - left) / self._per_s))
            detail = f"more than {self._per_s:g} requests a second"
            raise ApiError(429, "too-many-requests", detail, retry_after_s=wait_s)


def caller_of(request: Request) -> Caller:
    return cast(Caller, getattr(request.state, "caller", EVERYBODY))


CallerDependency = Annotated[Caller, Depends(caller_of)]


def needs(scope: str) -> Any:
    """A route's dependency: the caller's key has this scope, else 403."""

    def check(caller: CallerDependency) -> None:
        if not caller.may(scope):
            raise ApiError(
                403, "scope-missing", f"the API key {caller.id} lacks the scope {scope!r}"
            )

    return Depends(check)
