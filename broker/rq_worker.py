"""The RQ worker of benchmark jobs, with leases short enough that a dead one is missed soon."""

from __future__ import annotations

import contextlib
import os
import secrets
import signal

from redis import Redis
from rq import Queue, Retry, Worker
from rq.job import Job

from broker.run_keys import QUEUE_NAME
from broker.serializer import MsgpackSerializer

_WORKER_TTL_S = 20
_MAINTENANCE_INTERVAL_S = 3
_MONITORING_INTERVAL_S = 5
_RETRIES = 1000


def connect_sync(redis_url: str) -> Redis:
    """A connection for RQ, which reads for up to 15 s at a time and must not time out before."""
    return Redis.from_url(redis_url, socket_timeout=30, health_check_interval=30)


def benchmark_queue(redis: Redis) -> Queue:
    """The queue of benchmark jobs. A job may take days: it has no time limit."""
    return Queue(QUEUE_NAME, connection=redis, serializer=MsgpackSerializer, default_timeout=-1)


def retry_policy() -> Retry:
    """A run goes on after any death of its coordinator; what cannot succeed is failed at once."""
    return Retry(max=_RETRIES, enqueue_at_front=True)


class BenchmarkWorker(Worker):  # type: ignore[misc] # rq is untyped
    """A forking worker of one queue.

    RQ's own leases are 90 to 420 s and its maintenance runs every 600 s: a run whose coordinator
    died would lie still for minutes. Exactly one queue: with several, RQ pops without an
    intermediate list, and a kill loses the job.
    """

    def __init__(self, redis: Redis, name: str) -> None:
        super().__init__(
            [benchmark_queue(redis)],
            name=f"{name}-{secrets.token_hex(3)}",  # the one before may have died just now
            connection=redis,
            serializer=MsgpackSerializer,
            worker_ttl=_WORKER_TTL_S,
            maintenance_interval=_MAINTENANCE_INTERVAL_S,
            job_monitoring_interval=_MONITORING_INTERVAL_S,
        )

    def get_heartbeat_ttl(self, job: Job, working_time: float = 0.0) -> int:
        """Three beats; RQ adds 60 s to one."""
        return 3 * _MONITORING_INTERVAL_S

    def handle_warm_shutdown_request(self) -> None:
        """Ask the run under way to stop where it is: it is queued again and goes on elsewhere.

        RQ would wait for the job's end, which may be days away.
        """
        super().handle_warm_shutdown_request()
        if self.horse_pid:
            with contextlib.suppress(ProcessLookupError):
                os.kill(self.horse_pid, signal.SIGTERM)
