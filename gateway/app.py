"""The gateway's HTTP application, put together: `create_app(settings, redis)`."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from importlib.metadata import PackageNotFoundError, version
from typing import TYPE_CHECKING

from fastapi import FastAPI
from prometheus_client import CollectorRegistry, Counter

from gateway.agent_board import RedisAgentBoard
from gateway.benchmarks import BrokerBenchmarks
from gateway.errors import MEDIA_TYPE, install_error_handlers
from gateway.middleware import BodyLimit, RequestCounts, RequestIds
from gateway.ports import AgentBoard, Benchmarks, Searches, Services
from gateway.records import Problem
from gateway.redis_client import blocking_redis
from gateway.reports import RunReports
from gateway.routes import agents, benchmarks, health, page, reports, search
from gateway.searches import BrokerSearches
from shared.bus.connection import connect
from shared.settings import Settings

if TYPE_CHECKING:
    from redis.asyncio import Redis

BODY_LIMIT_BYTES = 1_000_000


def create_app(
    settings: Settings,
    redis: Redis,
    *,
    benchmark_service: Benchmarks | None = None,
    agent_board: AgentBoard | None = None,
    search_service: Searches | None = None,
) -> FastAPI:
    """The application. It keeps no state: any number of gateways may run side by side.

    Args:
        redis: asyncio client; it need not be reachable when the application starts.
        benchmark_service, agent_board, search_service: in place of the real ones over `redis`.
    """
    registry = CollectorRegistry()
    requests = Counter(
        "xr_http_requests", "HTTP responses", ["method", "route", "status"], registry=registry
    )
    # A search waits for its answer as long as its caller does, Redis being away or not.
    searches = search_service or BrokerSearches(connect(settings.redis_url), settings)

    @asynccontextmanager
    async def lifespan(_app: FastAPI) -> AsyncIterator[None]:
        yield
        await searches.aclose()

    app = FastAPI(
        title="XR",
        summary="Training-free composed image retrieval: benchmarks and searches over HTTP",
        lifespan=lifespan,
        version=_version(),
        responses={
            "default": {
                "description": "An error, as problem details (RFC 9457)",
                "content": {MEDIA_TYPE: {"schema": Problem.model_json_schema()}},
            }
        },
    )
    app.state.services = Services(
        settings=settings,
        benchmarks=benchmark_service or BrokerBenchmarks(settings, blocking_redis(settings)),
        board=agent_board or RedisAgentBoard(redis, settings),
        searches=searches,
        reports=RunReports(settings),
        registry=registry,
    )
    install_error_handlers(app)
    app.include_router(health.router)
    app.include_router(benchmarks.router)
    app.include_router(agents.router)
    app.include_router(search.router)
    app.include_router(reports.router)
    app.include_router(page.router)
    app.add_middleware(BodyLimit, limit_bytes=BODY_LIMIT_BYTES)
    app.add_middleware(RequestCounts, counter=requests)
    app.add_middleware(RequestIds)  # the outermost: every response carries the id
    return app


def _version() -> str:
    try:
        return version("xr-retrieval")
    except PackageNotFoundError:
        return "0"
