"""Fixtures for the whole suite: a private Redis, emptied before each test that uses it."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest
from hypothesis import settings
from redis import Redis as BlockingRedis
from redis.asyncio import Redis

from shared.bus.connection import connect
from shared.errors import ConfigurationError
from shared.redis_server import PrivateRedis, find_redis_server

# A busy machine is no failure: hypothesis's time limit per example is off.
settings.register_profile("xr", deadline=None)
settings.load_profile("xr")


@pytest.fixture
def short_folder() -> Iterator[Path]:
    """A folder whose path is short enough for a unix socket."""
    folder = Path(tempfile.mkdtemp(prefix="xr-"))
    yield folder
    shutil.rmtree(folder)


@pytest.fixture(scope="session")
def redis_server() -> Iterator[PrivateRedis]:
    """One private server for the session. Without a server program: skipped, in CI an error."""
    try:
        find_redis_server()
    except ConfigurationError as error:
        if os.environ.get("CI"):
            raise
        pytest.skip(str(error))
    folder = Path(tempfile.mkdtemp(prefix="xr-redis-"))
    with PrivateRedis(folder, unix_socket=True, append_only=False) as server:
        yield server
    shutil.rmtree(folder)


@pytest.fixture(scope="session")
def redis_url(redis_server: PrivateRedis) -> str:
    return redis_server.url


@pytest.fixture(autouse=True)
def _empty_redis(request: pytest.FixtureRequest) -> None:
    if "redis_url" in request.fixturenames:
        url: str = request.getfixturevalue("redis_url")
        with BlockingRedis.from_url(url) as client:
            client.flushall()


@pytest.fixture
async def redis(redis_url: str) -> AsyncIterator[Redis]:
    """A client of the emptied private server."""
    client = connect(redis_url)
    yield client
    await client.aclose()
