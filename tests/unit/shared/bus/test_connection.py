"""While Redis is away the log says so, now and then, and without secrets."""

from __future__ import annotations

import asyncio
import logging

import pytest
from redis.exceptions import (
    AuthenticationError,
    BusyLoadingError,
    ConnectionError,  # noqa: A004
    OutOfMemoryError,
    RedisError,
    ResponseError,
    TimeoutError,  # noqa: A004
)

from shared.bus.connection import Outage, address, connect, keep_trying, will_pass


@pytest.mark.parametrize(
    "error",
    [
        ConnectionError("refused"),
        TimeoutError("no answer"),
        BusyLoadingError("LOADING"),
        OutOfMemoryError("OOM command not allowed"),
        ResponseError("READONLY You can't write against a read only replica."),
        ResponseError("MISCONF Errors writing to the AOF file"),
    ],
)
def test_states_of_redis_that_end_by_themselves_are_waited_for(error: RedisError) -> None:
    assert will_pass(error)


@pytest.mark.parametrize(
    "error",
    [
        AuthenticationError("WRONGPASS"),
        ConnectionError("invalid username-password pair or user is disabled."),
        ConnectionError("Authentication required."),
        ResponseError("WRONGTYPE Operation against a key holding the wrong kind of value"),
        ResponseError("NOPERM this user has no permissions"),
    ],
)
def test_what_needs_a_person_is_raised(error: RedisError) -> None:
    assert not will_pass(error)


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("redis://user:hunter2@redis.example:6380/2", "redis://redis.example:6380/2"),
        ("redis://localhost", "redis://localhost:6379/0"),
        ("unix://:hunter2@/run/redis.sock", "unix:///run/redis.sock"),
    ],
)
async def test_an_address_is_shown_without_credentials(url: str, shown: str) -> None:
    assert address(connect(url)) == shown


async def test_an_outage_is_logged_once_its_pauses_grow_and_its_end_is_logged(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    pauses: list[float] = []
    real_sleep = asyncio.sleep

    async def note(seconds: float) -> None:
        pauses.append(seconds)
        await real_sleep(0)

    monkeypatch.setattr("asyncio.sleep", note)
    caplog.set_level(logging.WARNING)
    failures = iter([ConnectionError("refused")] * 8)

    async def operation() -> str:
        for failure in failures:
            raise failure
        return "done"

    outage = Outage(connect("redis://:hunter2@host"))
    assert await keep_trying(outage, operation) == "done"
    assert pauses == [0.05, 0.1, 0.2, 0.4, 0.8, 1.6, 2.0, 2.0]
    lines = [record.getMessage() for record in caplog.records]
    assert len(lines) == 2
    assert (
        lines[0] == "Redis at redis://host:6379/0 is not reachable: refused; trying again in 0.05 s"
    )
    assert "answers again" in lines[1]


async def test_giving_up_raises_the_last_trouble() -> None:
    async def refused() -> None:
        raise ConnectionError("refused")

    with pytest.raises(ConnectionError):
        await keep_trying(Outage(connect("redis://host")), refused, give_up=lambda: True)
