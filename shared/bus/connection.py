"""Connections to Redis, and patience while it is away."""

from __future__ import annotations

import asyncio
import logging
import socket
import time
from collections.abc import Awaitable, Callable
from typing import Any, TypeVar

from redis.asyncio import Redis
from redis.asyncio.retry import Retry
from redis.backoff import ConstantBackoff
from redis.exceptions import (
    AuthenticationError,
    AuthorizationError,
    ConnectionError,  # noqa: A004 - this module speaks of no other
    NoPermissionError,
    RedisError,
    ResponseError,
    TimeoutError,  # noqa: A004
)

from shared.errors import ConfigurationError

LONGEST_BLOCK_S = 5.0
"""No command blocks longer, so that a silent connection is told from a quiet queue."""
_SOCKET_TIMEOUT_S = 3 * LONGEST_BLOCK_S
_SHORTEST_PAUSE_S, _LONGEST_PAUSE_S = 0.05, 2.0
_LOG_INTERVAL_S = 5.0
_KEEP_ALIVE: dict[str, Any] = {
    "socket_keepalive": True,
    "socket_keepalive_options": {
        getattr(socket, name): value
        for name, value in (("TCP_KEEPIDLE", 30), ("TCP_KEEPINTVL", 5), ("TCP_KEEPCNT", 3))
        if hasattr(socket, name)
    },
}
_WRONG_CREDENTIALS = ("WRONGPASS", "NOAUTH", "NOPERM", "username-password", "uthentication")
_PASSING_REFUSALS = ("OOM", "READONLY", "MISCONF", "MASTERDOWN", "NOREPLICAS", "BUSY ", "TRYAGAIN")

logger = logging.getLogger(__name__)
Outcome = TypeVar("Outcome")


def connect(redis_url: str) -> Redis:
    """A client (with its own pool) that speaks bytes. It connects with the first command.

    Raises: ConfigurationError: the URL isn't redis://, rediss:// or unix://.
    """
    # A broken line is noticed by the system's keep-alive. (The client library's own health check
    # recurses without end on a Redis that wants a password it wasn't given.)
    keep_alive = {} if redis_url.startswith("unix:") else _KEEP_ALIVE
    try:
        return Redis.from_url(
            redis_url,
            decode_responses=False,
            protocol=2,
            socket_timeout=_SOCKET_TIMEOUT_S,
            socket_connect_timeout=LONGEST_BLOCK_S,
            # One immediate retry replaces a connection that a restart has broken; longer outages
            # are waited for by `keep_trying`, which says so in the log.
            retry=Retry(ConstantBackoff(0.01), 1),
            **keep_alive,
        )
    except ValueError:
        raise wrong_url() from None


def wrong_url() -> ConfigurationError:
    """For a URL the client library refuses. What it says may quote the password, so it is left out.

    Raise it `from None`, for the same reason.
    """
    return ConfigurationError(
        "XR_REDIS_URL is no URL of a Redis: redis://, rediss:// or unix://, then user, password and"
        " place; in a password, special characters are written as %XX (a slash is %2F)"
    )


async def command(redis: Redis, *words: str | bytes | int | float) -> Any:
    """Send one command. Its reply is bytes, ints and lists, or as redis-py shapes it."""
    return await redis.execute_command(*words)  # type: ignore[no-untyped-call]


def address(redis: Redis) -> str:
    """Where a client connects to, without user and password."""
    where = redis.connection_pool.connection_kwargs
    if "path" in where:
        return f"unix://{where['path']}"
    return (
        f"redis://{where.get('host', 'localhost')}:{where.get('port', 6379)}/{where.get('db') or 0}"
    )


def will_pass(error: RedisError) -> bool:
    """Is it a state of Redis that ends without anybody changing the configuration?"""
    # The client library wraps some refusals of a login as connection errors: judge by the words.
    if isinstance(error, AuthenticationError | AuthorizationError | NoPermissionError):
        return False
    if any(word in str(error) for word in _WRONG_CREDENTIALS):
        return False
    if isinstance(error, ConnectionError | TimeoutError):
        return True
    return isinstance(error, ResponseError) and any(
        word in str(error) for word in _PASSING_REFUSALS
    )


def group_is_missing(error: RedisError) -> bool:
    """Has Redis lost the consumer group (emptied, or restarted without its data)?"""
    return isinstance(error, ResponseError) and "NOGROUP" in str(error)


def key_is_misplaced(error: RedisError) -> bool:
    """Does another kind of value lie where one of ours belongs?"""
    return isinstance(error, ResponseError) and "WRONGTYPE" in str(error)


class Outage:
    """One owner's view of Redis being away: pauses that grow up to 2 s, and a few log lines."""

    def __init__(self, redis: Redis) -> None:
        self._address = address(redis)
        self._since_s: float | None = None
        self._pause_s = _SHORTEST_PAUSE_S
        self._log_at_s = 0.0

    async def wait(self, error: RedisError) -> None:
        """Sleep before the next try; logs at most one line every few seconds."""
        now = time.monotonic()
        if self._since_s is None:
            self._since_s = now
        if now >= self._log_at_s:
            self._log_at_s = now + _LOG_INTERVAL_S
            trouble = "refuses" if isinstance(error, ResponseError) else "is not reachable"
            logger.warning(
                "Redis at %s %s: %s; trying again in %.2g s",
                self._address, trouble, error, self._pause_s,
            )  # fmt: skip
        await asyncio.sleep(self._pause_s)
        self._pause_s = min(2 * self._pause_s, _LONGEST_PAUSE_S)

    def over(self) -> bool:
        """Redis has answered; returns whether it had been away."""
        was_away = self._since_s is not None
        if self._since_s is not None:
            away_s = time.monotonic() - self._since_s
            logger.warning("Redis at %s answers again after %.1f s", self._address, away_s)
            self._since_s, self._pause_s, self._log_at_s = None, _SHORTEST_PAUSE_S, 0.0
        return was_away


async def keep_trying(
    outage: Outage,
    operation: Callable[[], Awaitable[Outcome]],
    give_up: Callable[[], bool] = lambda: False,
) -> Outcome:
    """Repeat an operation until Redis answers or `give_up` says so.

    Raises: RedisError: what doesn't pass by itself, or the last trouble when giving up.
    """
    while True:
        try:
            outcome = await operation()
        except RedisError as error:
            if not will_pass(error) or give_up():
                raise
            await outage.wait(error)
        else:
            outage.over()
            return outcome


async def wait_until_reachable(redis: Redis, timeout_s: float | None = None) -> None:
    """Return once Redis answers; for the start of a service.

    Raises:
        ConfigurationError: it answers, but not to us (user, password), or not within `timeout_s`.
    """
    end = None if timeout_s is None else time.monotonic() + timeout_s
    try:
        await keep_trying(
            Outage(redis),
            lambda: command(redis, "PING"),
            lambda: end is not None and time.monotonic() >= end,
        )
    except RedisError as error:
        raise ConfigurationError(
            f"XR_REDIS_URL: Redis at {address(redis)} cannot be used: {error}"
        ) from error
