"""Health and metrics: does the process live, would a benchmark run now, what Prometheus reads."""

from __future__ import annotations

from fastapi import APIRouter, Response
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest

from gateway.errors import REDIS_AWAY, content_of
from gateway.metrics import state_of_the_system
from gateway.ports import ServicesDependency
from gateway.records import Readiness

router = APIRouter(tags=["health"])


@router.get("/livez")
async def livez() -> dict[str, str]:
    """The process answers; nothing about Redis or agents, as a restart would not mend those."""
    return {"status": "alive"}


@router.get("/readyz", responses={503: {"model": Readiness}})
async def readyz(response: Response, services: ServicesDependency) -> Readiness:
    """Whether benchmarks would run now; 503 when Redis, the coordinators or a whole agent type are
    missing, or this gateway is about to stop; `reasons` says which."""
    draining = services.draining.is_set()
    reasons = ["this gateway was told to stop and takes no new work"] if draining else []
    try:
        views = await services.board.agents()
        jobs = await services.benchmarks.coordinators()
    except REDIS_AWAY as error:
        reasons.append(f"Redis cannot be reached: {error}")
        readiness = Readiness(
            ready=False, reasons=reasons, redis=False, draining=draining, coordinators=0, agents={}
        )
    else:
        alive = {view.agent: len(view.workers) for view in views}
        coordinators = len(jobs.coordinators)
        if not coordinators:
            reasons.append("no coordinator is up")
        reasons += [f"no {agent} agent is up" for agent, workers in alive.items() if not workers]
        reasons += [
            f"no {view.agent} agent is ready: nothing passes through its model"
            for view in views
            if view.details and not any(worker.ready for worker in view.details)
        ]
        readiness = Readiness(
            ready=not reasons,
            reasons=reasons,
            redis=True,
            draining=draining,
            coordinators=coordinators,
            agents=alive,
        )
    response.status_code = 200 if readiness.ready else 503
    return readiness


@router.get("/metrics", response_class=Response, responses=content_of("text/plain"))
async def metrics(services: ServicesDependency) -> Response:
    """Prometheus' text format: queues and runs as they are now, and the requests served so far."""
    text = generate_latest(services.registry) + generate_latest(await state_of_the_system(services))
    return Response(text, media_type=CONTENT_TYPE_LATEST)
