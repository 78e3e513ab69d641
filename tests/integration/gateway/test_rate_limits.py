"""Limits that several gateways share by Redis, and what becomes of them without it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from pathlib import Path

import httpx
import pytest
from redis.asyncio import Redis

from gateway.app import create_app
from gateway.errors import ApiError
from gateway.rate_limits import RateLimits
from gateway.redis_client import gateway_redis
from shared.settings import Settings

PER_S = 4.0


@pytest.fixture
async def gateways(tmp_path: Path, redis_url: str) -> AsyncIterator[list[httpx.AsyncClient]]:
    """Two of them beside one Redis."""
    settings = Settings(redis_url=redis_url, home=tmp_path, rate_limit_per_s=PER_S)
    async with AsyncExitStack() as stack:
        clients = []
        for _ in range(2):
            redis = gateway_redis(settings)
            stack.push_async_callback(redis.aclose)
            app = create_app(settings, redis)
            stack.push_async_callback(app.state.services.searches.aclose)
            transport = httpx.ASGITransport(app=app, raise_app_exceptions=False)
            client = httpx.AsyncClient(transport=transport, base_url="http://gateway")
            clients.append(await stack.enter_async_context(client))
        yield clients


async def test_two_gateways_count_the_requests_of_a_caller_together(
    gateways: list[httpx.AsyncClient],
) -> None:
    # When one caller asks both in turns, more often than is allowed
    answers = [await gateways[number % 2].get("/v1/knobs") for number in range(12)]
    # Then both together let through about as many as one alone may (time passes meanwhile)
    passed = [answer for answer in answers if answer.status_code == 200]
    assert PER_S <= len(passed) < 2 * PER_S
    for refused in (answer for answer in answers if answer.status_code != 200):
        assert refused.status_code == 429
        assert int(refused.headers["retry-after"]) >= 1


async def test_the_bucket_of_a_caller_fills_again_and_is_forgotten(redis: Redis) -> None:
    limits = RateLimits(redis, 20.0)
    for _ in range(20):
        await limits.check("a")
    await limits.check("b")
    with pytest.raises(ApiError):
        for _ in range(20):
            await limits.check("a")
    assert 0 < await redis.pttl("xr:rate:a") <= 1000
    await asyncio.sleep(0.2)
    await limits.check("a")


async def test_without_redis_each_gateway_counts_for_itself(tmp_path: Path) -> None:
    settings = Settings(redis_url="redis://127.0.0.1:1/0", home=tmp_path)
    redis = gateway_redis(settings)
    limits = RateLimits(redis, 2.0)
    await limits.check("a")
    await limits.check("a")
    with pytest.raises(ApiError) as refused:
        await limits.check("a")
    assert refused.value.status == 429
    await redis.aclose()
