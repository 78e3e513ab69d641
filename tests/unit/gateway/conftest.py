"""The application in this process, over fakes."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import httpx
import pytest

from gateway.app import create_app
from gateway.redis_client import gateway_redis
from shared.settings import Settings
from tests.unit.gateway.fakes import Api, FakeBenchmarks, FakeBoard, FakeSearches


@pytest.fixture
async def api(tmp_path: Path) -> AsyncIterator[Api]:
    settings = Settings(home=tmp_path)
    benchmarks, board, searches = FakeBenchmarks(), FakeBoard(), FakeSearches()
    app = create_app(
        settings,
        gateway_redis(settings),
        benchmark_service=benchmarks,
        agent_board=board,
        search_service=searches,
    )
    transport = httpx.ASGITransport(app=app, raise_app_exceptions=False)
    async with httpx.AsyncClient(transport=transport, base_url="http://gateway") as http:
        yield Api(http, benchmarks, board, searches, settings, app.state.services)
