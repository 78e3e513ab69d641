"""The gateway's HTTP application, put together: `create_app(settings, redis)`."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from importlib.metadata import PackageNotFoundError, version
from typing import TYPE_CHECKING

from fastapi import FastAPI
from prometheus_client import CollectorRegistry, Counter
from starlette.middleware.cors import CORSMiddleware

from gateway.abandoned_uploads import keep_swept
from gateway.access import Access
from gateway.agent_board import RedisAgentBoard
from gateway.benchmarks import BrokerBenchmarks
from gateway.description import DescribedApi
from gateway.errors import install_error_handlers
from gateway.galleries import StoredGalleries
from gateway.gallery_changes import StoredGalleryChanges
from gateway.middleware import BodyLimit, RequestCounts, RequestIds, SearchAdmission
from gateway.ports import AgentBoard, Benchmarks, Galleries, Searches, Services
from gateway.redis_client import blocking_redis
from gateway.reports import RunReports
from gateway.routes import (
    agents,
    benchmarks,
    galleries,
    gallery_changes,
    health,
    page,
    reports,
    runs,
    search,
    system,
    uploads,
)
from gateway.searches import BrokerSearches
from gateway.watches import RunWatches
from shared.bus.connection import connect
from shared.image_files import MAX_BYTES, limit_pixels
from shared.settings import Settings
from shared.tasks import stop_tasks

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
    gallery_service: Galleries | None = None,
) -> FastAPI:
    """The application. It keeps no state: any number of gateways may run side by side.

    Args:
        redis: asyncio client; it need not be reachable when the application starts.
        benchmark_service, agent_board, search_service, gallery_service: in place of the real ones
            over `redis`.
    """
    registry = CollectorRegistry()
    requests = Counter(
        "xr_http_requests", "HTTP responses", ["method", "route", "status"], registry=registry
    )
    # A search waits for its answer as long as its caller does, Redis being away or not.
    searches = search_service or BrokerSearches(connect(settings.redis_url), settings)
    of_broker = BrokerBenchmarks(settings, blocking_redis(settings))
    running = benchmark_service or of_broker
    draining = threading.Event()
    watches = RunWatches(running.view, draining)
    limit_pixels(settings.max_pixels)

    @asynccontextmanager
    async def lifespan(_app: FastAPI) -> AsyncIterator[None]:
        sweeping = asyncio.create_task(keep_swept(settings))
        yield
        await stop_tasks([sweeping])
        await watches.aclose()
        await searches.aclose()

    app = DescribedApi(
        title="XR",
        summary="Training-free composed image retrieval: benchmarks and searches over HTTP",
        lifespan=lifespan,
        version=_version(),
    )
    app.state.services = Services(
        settings=settings,
        benchmarks=running,
        board=agent_board or RedisAgentBoard(redis, settings),
        searches=searches,
        reports=RunReports(settings),
        galleries=gallery_service or StoredGalleries(settings, of_broker),
        gallery_changes=StoredGalleryChanges(settings, of_broker),
        watches=watches,
        registry=registry,
        version=_version(),
        draining=draining,
    )
    install_error_handlers(app)
    for resource in (
        health,
        benchmarks,
        runs,
        galleries,
        gallery_changes,
        search,
        uploads,
        agents,
        system,
        reports,
        page,
    ):
        app.include_router(resource.router)
    app.add_middleware(
        BodyLimit,
        limit_bytes=BODY_LIMIT_BYTES,
        uploads={
            r"/v1/galleries(/[^/]+/images)?": settings.max_upload_mb * 1_000_000,
            r"/v1/uploads": MAX_BYTES,
        },
    )
    app.add_middleware(SearchAdmission, check_place=searches.check_place)
    app.add_middleware(Access, settings=settings, redis=redis)
    app.add_middleware(RequestCounts, counter=requests)
    origins = [origin.strip() for origin in settings.cors_origins.split(",") if origin.strip()]
    if origins:
        app.add_middleware(
            CORSMiddleware,
            allow_origins=origins,
            allow_methods=["GET", "POST", "DELETE"],
            allow_headers=["Authorization", "Content-Type", "Idempotency-Key", "X-Request-ID"],
            expose_headers=["Location", "Retry-After", "X-Request-ID"],
        )
    app.add_middleware(RequestIds)  # the outermost: every response carries the id
    return app


def _version() -> str:
    try:
        return version("xr-retrieval")
    except PackageNotFoundError:
        return "0"
