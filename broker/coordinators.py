"""Who takes benchmark jobs, and how many wait: RQ's own records, read for health and metrics."""

from __future__ import annotations

import datetime

import msgspec
from redis import Redis
from rq.exceptions import NoSuchJobError

from broker.rq_job import BenchmarkJob
from broker.rq_worker import BenchmarkWorker, benchmark_queue
from broker.serializer import MsgpackSerializer


class Coordinator(msgspec.Struct, frozen=True, kw_only=True):
    """One coordinator process.

    Attributes:
        state: started, idle, busy or suspended.
        heartbeat_age_s: since it last said that it lives; beyond half a minute it does not.
        benchmark_id: the run it works on, empty when there is none.
    """

    name: str
    state: str
    heartbeat_age_s: float
    benchmark_id: str = ""


class Coordinators(msgspec.Struct, frozen=True, kw_only=True):
    """The queue of benchmark jobs (`waiting`; `delayed`: tried again after a pause), and takers."""

    waiting: int
    delayed: int
    coordinators: list[Coordinator]


def coordinators_now(redis: Redis) -> Coordinators:
    """As Redis knows them; one that was killed is listed until its heartbeat expires."""
    queue = benchmark_queue(redis)
    now = datetime.datetime.now(datetime.UTC)
    workers = BenchmarkWorker.every(redis)
    return Coordinators(
        waiting=queue.count,
        delayed=queue.scheduled_job_registry.get_job_count(cleanup=False),
        coordinators=[
            Coordinator(
                name=worker.name,
                state=str(worker.get_state()),
                heartbeat_age_s=round((now - worker.last_heartbeat).total_seconds(), 1),
                benchmark_id=_run_of(redis, worker.get_current_job_id()),
            )
            for worker in sorted(workers, key=lambda worker: str(worker.name))
            if worker.last_heartbeat is not None
        ],
    )


def _run_of(redis: Redis, job_id: str | None) -> str:
    if job_id is None:
        return ""
    try:
        job = BenchmarkJob.fetch(job_id, connection=redis, serializer=MsgpackSerializer)
    except NoSuchJobError:
        return ""
    return str(job.description or "")
