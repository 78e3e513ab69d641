"""The RQ job: one job = one run = one coordinator."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Mapping
from typing import Any

from redis.exceptions import RedisError
from rq import get_current_job
from rq.job import Job

from broker.benchmark_run import coordinate
from shared import tracing
from shared.bus.connection import connect, wait_until_reachable
from shared.logs import about
from shared.settings import Settings, load_settings

logger = logging.getLogger(__name__)


def run_benchmark(run_id: str) -> dict[str, Any]:
    """Bring a run to its end; RQ calls this in a process of its own.

    Returns: what `rq info` and the job's result show: state, counts.
    Raises: PermanentError: it is not tried again. TransientError: it is (`BenchmarkWorker`).
    """
    settings = load_settings()
    tracing.set_up("coordinator", settings.otlp_endpoint)
    try:
        with about(run=run_id):
            status = asyncio.run(_coordinate(run_id, settings, get_current_job()))
    finally:
        tracing.shut_down()
    return {"run_id": run_id, "state": status.get("state"), "counts": status.get("counts", {})}


async def _coordinate(run_id: str, settings: Settings, job: Job | None) -> dict[str, Any]:
    async def publish(status: Mapping[str, Any]) -> None:
        if job is not None:
            job.meta.update(status)
            try:
                await asyncio.to_thread(_save_progress, job)
            except RedisError as error:
                logger.warning("the job's progress cannot be saved: %s", error)

    redis = connect(settings.redis_url)
    try:
        await wait_until_reachable(redis)
        return await coordinate(run_id, settings, redis, publish)
    finally:
        await redis.aclose()


def _save_progress(job: Job) -> None:
    """Of a job that Redis has lost (it was emptied) nothing is made anew but its run's status."""
    if Job.exists(job.id, connection=job.connection):
        job.save_meta()
