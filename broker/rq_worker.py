"""The RQ worker of benchmark jobs: a dead one is missed within seconds, a failing job waits."""

from __future__ import annotations

import contextlib
import datetime
import logging
import os
import secrets
import signal
import sys
import time
from typing import Any

from redis import Redis
from redis.client import Pipeline
from redis.exceptions import RedisError
from rq import Queue, Retry, Worker
from rq.exceptions import NoSuchJobError
from rq.executions import Execution
from rq.intermediate_queue import IntermediateQueue
from rq.job import Job
from rq.registry import BaseRegistry
from rq.worker_registration import register

from broker.rq_job import BenchmarkJob, throw_junk_out, well_formed_id
from broker.run_guards import InterruptedRunError
from broker.run_keys import QUEUE_NAME
from broker.serializer import MsgpackSerializer
from shared.errors import PermanentError

logger = logging.getLogger(__name__)

_WORKER_TTL_S = 17
"""RQ waits for jobs 15 s less than this, and looks after abandoned ones in between."""
_LISTED_S = 20
_MAINTENANCE_INTERVAL_S = 2
_MONITORING_INTERVAL_S = 4
_MAINTENANCE_LOCK_S = 10
_STUCK_S = 5.0
_LONGEST_REDIS_PAUSE_S = 4
_CLOCKS_DIFFER_S = 5
_RETRIES = 1000

_EARLY_S = 20.0
"""A coordinator that ended sooner counts as an early death; later ones start the count anew."""
_EARLY_DEATHS = "early_deaths"
_LONGEST_PAUSE_S = 60
_LONGEST_PAUSE_AFTER_A_KILL_S = 4


def connect_sync(redis_url: str) -> Redis:
    """A connection for RQ, which reads for up to 15 s at a time and must not time out before."""
    return Redis.from_url(redis_url, socket_timeout=30, health_check_interval=30)


def benchmark_queue(redis: Redis) -> BenchmarkQueue:
    """The queue of benchmark jobs. A job may take days: it has no time limit."""
    return BenchmarkQueue(
        QUEUE_NAME,
        connection=redis,
        serializer=MsgpackSerializer,
        job_class=BenchmarkJob,
        default_timeout=-1,
    )


def retry_policy() -> Retry:
    """A run goes on after any death of its coordinator; what cannot succeed is failed at once."""
    return Retry(max=_RETRIES, enqueue_at_front=True)


def pause_before_retry_s(early_deaths: int, killed: bool) -> int:
    """0, 1, 3, 7, ... seconds: what fails at its start is not tried in a tight loop.

    Args:
        early_deaths: how often in a row the job's process ended soon after its start, at least 1.
        killed: it said nothing (kill -9, out of memory), which rarely is its own fault.
    """
    longest = _LONGEST_PAUSE_AFTER_A_KILL_S if killed else _LONGEST_PAUSE_S
    return int(min(2 ** min(early_deaths - 1, 10) - 1, longest))


class _DequeuedJobs(IntermediateQueue):  # type: ignore[misc] # rq is untyped
    """Jobs a worker has taken; what one that died at that moment leaves here is found soon."""

    def should_be_cleaned_up(self, job_id: str) -> bool:
        """RQ waits for a minute, and remembers when it first saw the job for a day."""
        first_seen = self.get_first_seen(job_id)
        waited = None if first_seen is None else datetime.datetime.now(datetime.UTC) - first_seen
        return waited is not None and waited.total_seconds() > _STUCK_S

    def remove(self, job_id: str) -> None:
        super().remove(job_id)
        self.connection.delete(self.get_first_seen_key(job_id))


class BenchmarkQueue(Queue):  # type: ignore[misc]
    """A queue that a worker's death at the worst moment stops for seconds, not for minutes."""

    @classmethod
    def lmove(cls, connection: Redis, queue_key: str, timeout: int | None) -> Any:
        """The next entry, put by among the taken ones; what is no job's id is thrown away."""
        while (taken := super().lmove(connection, queue_key, timeout)) is not None:
            if well_formed_id(taken[1]):
                return taken
            logger.error("an entry of %s is no job: %.100r", queue_key, taken[1])
            connection.lrem(IntermediateQueue.get_intermediate_queue_key(queue_key), 1, taken[1])
        return None

    @property
    def intermediate_queue(self) -> IntermediateQueue:
        return _DequeuedJobs(self.key, connection=self.connection)

    def acquire_maintenance_lock(self) -> bool:
        """RQ's lock outlives a worker that is killed while it holds it by 15 minutes."""
        return bool(
            self.connection.set(self.registry_cleaning_key, 1, nx=True, ex=_MAINTENANCE_LOCK_S)
        )


class BenchmarkWorker(Worker):  # type: ignore[misc]
    """A forking worker of one queue.

    RQ's own leases are 90 to 420 s and its maintenance runs every 600 s: a run whose coordinator
    died would lie still for minutes. Exactly one queue: with several, RQ pops without an
    intermediate list, and a kill loses the job.

    Attributes:
        told_to_stop: somebody sent SIGTERM; work that ends without it has broken down.
        heard_s: when Redis last took a heartbeat (monotonic clock).
    """

    max_connection_wait_time = _LONGEST_REDIS_PAUSE_S

    def __init__(self, redis: Redis, name: str) -> None:
        self.told_to_stop = False
        self.heard_s = time.monotonic()
        super().__init__(
            [benchmark_queue(redis)],
            name=f"{name}-{secrets.token_hex(3)}",  # the one before may have died just now
            connection=redis,
            serializer=MsgpackSerializer,
            job_class=BenchmarkJob,
            queue_class=BenchmarkQueue,
            worker_ttl=_WORKER_TTL_S,
            maintenance_interval=_MAINTENANCE_INTERVAL_S,
            job_monitoring_interval=_MONITORING_INTERVAL_S,
        )

    @classmethod
    def every(cls, redis: Redis) -> list[Worker]:
        """All registered workers, as Redis has them, to look at."""
        return list(Worker.all(connection=redis, serializer=MsgpackSerializer))

    def heartbeat(self, timeout: int | None = None, pipeline: Pipeline | None = None) -> None:
        """RQ lists a dead worker for 60 s more, and one whose Redis was emptied never again.

        The probes want to know when it was.
        """
        super().heartbeat(_LISTED_S, pipeline)
        register(self, pipeline)
        self.set_state(self.get_state(), pipeline)
        self.heard_s = time.monotonic()

    def get_heartbeat_ttl(self, job: Job, working_time: float = 0.0) -> int:
        """Three beats; RQ adds 60 s to one."""
        return 3 * _MONITORING_INTERVAL_S

    def maintain_heartbeats(self, job: Job, execution: Execution) -> None:
        """Redis being away is no reason to leave a run alone that goes on meanwhile."""
        try:
            super().maintain_heartbeats(job, execution)
        except RedisError as error:
            logger.warning("the heartbeat of job %s cannot be sent: %s", job.id, error)

    def handle_warm_shutdown_request(self) -> None:
        """Ask the run under way to stop where it is: it is queued again and goes on elsewhere.

        RQ would wait for the job's end, which may be days away.
        """
        super().handle_warm_shutdown_request()
        self.told_to_stop = True
        if self.horse_pid:
            with contextlib.suppress(ProcessLookupError):
                os.kill(self.horse_pid, signal.SIGTERM)

    def handle_job_failure(self, job: Job, *arguments: Any, **options: Any) -> None:
        """Fail the job for good, or choose when it is tried again.

        Called by the job's process while it handles what the job raised, or by the worker's
        process, with nothing raised, when the job's process was killed.
        """
        error = sys.exception()
        if isinstance(error, PermanentError):
            job.retries_left = 0
        else:
            job.retry_intervals = [self._pause_s(job, error)]
        super().handle_job_failure(job, *arguments, **options)

    def _pause_s(self, job: Job, error: BaseException | None) -> int:
        if isinstance(error, InterruptedRunError):
            return 0
        now = datetime.datetime.now(datetime.UTC)
        lived_s = (now - job.started_at).total_seconds() if job.started_at else 0.0
        deaths = job.meta.get(_EARLY_DEATHS, 0)
        early = deaths + 1 if lived_s < _EARLY_S and isinstance(deaths, int) else 0
        job.meta[_EARLY_DEATHS] = early
        return pause_before_retry_s(early, killed=error is None) if early else 0

    def run_maintenance_tasks(self) -> None:
        """RQ's own, and what its scheduler would do: one process more, with locks of a minute."""
        for queue in self.queues:
            throw_junk_out(queue)
            self._bring_nearer(queue.started_job_registry, 3 * _MONITORING_INTERVAL_S)
            self._bring_nearer(queue.scheduled_job_registry, _LONGEST_PAUSE_S)
        super().run_maintenance_tasks()
        for queue in self.queues:
            self._enqueue_what_has_waited(queue)

    def _bring_nearer(self, registry: BaseRegistry, longest_s: int) -> None:
        """What is due later than anybody ever asks for: the clock was set back. RQ would wait."""
        latest = time.time() + longest_s
        for entry in self.connection.zrangebyscore(registry.key, latest + _CLOCKS_DIFFER_S, "+inf"):
            self.connection.zadd(registry.key, {entry: latest}, xx=True)

    def _enqueue_what_has_waited(self, queue: Queue) -> None:
        waiting = queue.scheduled_job_registry
        for job_id in waiting.get_jobs_to_schedule():
            try:
                job = BenchmarkJob.fetch(
                    job_id, connection=self.connection, serializer=self.serializer
                )
            except NoSuchJobError:
                self.connection.zrem(waiting.key, job_id)
                continue
            # In one transaction: a kill loses no job. Two workers may both do it; of two copies
            # of a run one waits for the other.
            with self.connection.pipeline() as pipeline:
                queue._enqueue_job(job, pipeline=pipeline, at_front=True)
                pipeline.zrem(waiting.key, job_id)
                pipeline.execute()
