"""Health and metrics: does the process live, would a benchmark run now, what Prometheus reads."""

from __future__ import annotations

from collections import Counter as Count

import redis.exceptions
from fastapi import APIRouter, Response
from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, Gauge, generate_latest

from gateway.ports import Services, ServicesDependency
from gateway.records import Readiness

router = APIRouter(tags=["health"])
_REDIS_AWAY = (redis.exceptions.ConnectionError, redis.exceptions.TimeoutError)


@router.get("/livez")
async def livez() -> dict[str, str]:
    """The process answers; nothing about Redis or agents, as a restart would not mend those."""
    return {"status": "alive"}


@router.get("/readyz", responses={503: {"model": Readiness}})
async def readyz(response: Response, services: ServicesDependency) -> Readiness:
    """Whether benchmarks would run now; 503 when Redis or a whole agent type is missing."""
    try:
        alive = {view.agent: len(view.workers) for view in await services.board.agents()}
    except _REDIS_AWAY:
        readiness = Readiness(ready=False, redis=False, agents={})
    else:
        readiness = Readiness(ready=all(alive.values()), redis=True, agents=alive)
    response.status_code = 200 if readiness.ready else 503
    return readiness


@router.get("/metrics", response_class=Response)
async def metrics(services: ServicesDependency) -> Response:
    """Prometheus' text format: queues and runs as they are now, and the requests served so far."""
    text = generate_latest(services.registry) + generate_latest(
        await _state_of_the_system(services)
    )
    return Response(text, media_type=CONTENT_TYPE_LATEST)


async def _state_of_the_system(services: Services) -> CollectorRegistry:
    """Gauges, read anew at each scrape; without Redis only `xr_redis_up 0`, nothing stale."""
    registry = CollectorRegistry()
    redis_up = Gauge("xr_redis_up", "1 when Redis answers", registry=registry)
    try:
        agents = await services.board.agents()
        runs = await services.benchmarks.views()
    except _REDIS_AWAY:
        redis_up.set(0)
        return registry
    redis_up.set(1)
    waiting = Gauge("xr_queue_depth", "messages not taken yet", ["agent"], registry=registry)
    pending = Gauge("xr_queue_pending", "messages being worked on", ["agent"], registry=registry)
    dead = Gauge("xr_dead_letters", "messages given up", ["agent"], registry=registry)
    workers = Gauge("xr_agent_workers", "living workers", ["agent"], registry=registry)
    for view in agents:
        waiting.labels(view.agent).set(view.waiting)
        pending.labels(view.agent).set(view.pending)
        dead.labels(view.agent).set(view.dead)
        workers.labels(view.agent).set(len(view.workers))
    by_state = Gauge("xr_runs", "benchmark runs by state", ["state"], registry=registry)
    for state, count in Count(view.state for view in runs).items():
        by_state.labels(state).set(count)
    return registry
