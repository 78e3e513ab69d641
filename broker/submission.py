"""What the gateway calls: submit, watch, cancel and resume benchmark runs. Synchronous."""

from __future__ import annotations

import hashlib
import json
import logging
import re
from typing import Any

import msgspec
from redis import Redis
from rq.exceptions import NoSuchJobError
from rq.job import Job, JobStatus

from broker.agents_roster import clip_label, identities_of
from broker.benchmark_job import FUNCTION
from broker.rq_worker import benchmark_queue, connect_sync, retry_policy
from broker.run_keys import cancel_key, owner_key, run_key, submission_key
from broker.run_status import CANCELLED, FAILED, OVER, QUEUED, RUNNING
from broker.run_store import (
    METRICS,
    STATUS,
    RunRequest,
    change_status,
    create_run,
    list_runs,
    read_json,
    read_request,
    run_folder,
)
from broker.serializer import MsgpackSerializer
from shared.bus import keys
from shared.bus.records import LiveAgent
from shared.datasets import known_datasets, load_dataset
from shared.errors import ConfigurationError, DatasetError, PermanentError, XRError
from shared.knobs import from_mapping
from shared.settings import Settings

__all__ = [
    "RunRequest",
    "RunView",
    "benchmark_status",
    "cancel_benchmark",
    "check_request",
    "connect_sync",
    "list_benchmarks",
    "resume_benchmark",
    "submit_benchmark",
]

logger = logging.getLogger(__name__)

_FLAG_KEPT_S = 7 * 24 * 3600
_SUBMISSION_KEPT_S = 24 * 3600
_NAME = re.compile(r"[A-Za-z0-9._-]{0,100}")
_GONE = frozenset({JobStatus.FAILED, JobStatus.STOPPED, JobStatus.CANCELED})


class RunView(msgspec.Struct, frozen=True, kw_only=True):
    """A run as it is now.

    Attributes:
        state: queued, running, finished, failed or cancelled.
        phase: gallery, agents, image_database, queries, evaluation or done.
        note: what is being waited for, if anything.
        progress: one entry per phase: phase, done, total, failed, rate_per_s, seconds.
        metrics: method -> metric -> fraction in [0, 1]; once finished.
        error: why it failed, or what stopped it the last time.
    """

    id: str
    dataset: str
    split: str
    name: str
    state: str
    run_folder: str
    phase: str = ""
    note: str = ""
    progress: list[dict[str, Any]] = []
    metrics: dict[str, dict[str, float]] = {}
    counts: dict[str, int] = {}
    error: str = ""
    submitted_at: str = ""


def submit_benchmark(
    redis: Redis, settings: Settings, request: RunRequest, idempotency_key: str = ""
) -> str:
    """Queue a run; returns its id, which is safe in URLs.

    Args:
        redis: from `rq_worker.connect_sync`.
        idempotency_key: submitting again with the same key within a day gives the same run.
    Raises: ConfigurationError: a wrong knob, name or limit. DatasetError: no such data set, or its
        files are missing.
    """
    check_request(settings, request)
    claim = submission_key(hashlib.sha256(idempotency_key.encode()).hexdigest())
    if idempotency_key:
        known = redis.get(claim)
        if isinstance(known, bytes) and _exists(settings, known.decode()):
            return known.decode()
    if not request.profile:
        request = msgspec.structs.replace(request, profile=settings.profile)
    served = identities_of(_live_agents(redis), ("similarity",)).get("similarity")
    run_id = create_run(settings.runs_folder, request, clip_label(served, request.profile))
    if idempotency_key and not redis.set(claim, run_id, nx=True, ex=_SUBMISSION_KEPT_S):
        other = redis.get(claim)  # the same submission came twice at once: the first one counts
        if isinstance(other, bytes) and _exists(settings, other.decode()):
            change_status(
                settings.runs_folder, run_id, state=CANCELLED, error=f"same as {other.decode()}"
            )
            return other.decode()
    _enqueue(redis, run_id)
    return run_id


def check_request(settings: Settings, request: RunRequest) -> None:
    """Find what is wrong with a request before anything is queued.

    Raises: ConfigurationError, DatasetError: what is wrong, and what would be right.
    """
    from_mapping(request.knobs)
    if not _NAME.fullmatch(request.name):
        raise ConfigurationError(
            f"name is {request.name!r}: use up to 100 letters, digits, dots, dashes, underscores"
        )
    if request.limit is not None and request.limit < 1:
        raise ConfigurationError(f"limit is {request.limit}: at least 1 query must be asked")
    folder = request.dataset.removeprefix("folder:")
    if folder != request.dataset:
        root = settings.data_root.resolve()
        if not (root / folder).resolve().is_relative_to(root):
            raise DatasetError(f"data set {request.dataset!r} lies outside the data root {root}")
    elif request.dataset not in known_datasets():
        known = ", ".join(known_datasets())
        raise DatasetError(f"unknown data set {request.dataset!r}; known: {known}")
    if settings.data_root.is_dir():  # else only the coordinator can see the files
        load_dataset(request.dataset, request.split, settings.data_root)


def benchmark_status(redis: Redis, settings: Settings, run_id: str) -> RunView:
    """One run as it is now. Raises: ConfigurationError: no such run."""
    request = read_request(settings.runs_folder, run_id)
    status = read_json(settings.runs_folder, run_id, STATUS) or {}
    if status.get("state") not in OVER:
        status = _live_status(redis, run_id) or status
        status = _with_the_death_of_its_job(redis, run_id, status)
    metrics = read_json(settings.runs_folder, run_id, METRICS) or {}
    finished = status.get("state") == "finished"
    return RunView(
        id=run_id,
        dataset=request.dataset,
        split=request.split,
        name=request.name,
        state=status.get("state", QUEUED),
        run_folder=str(run_folder(settings.runs_folder, run_id)),
        phase=status.get("phase", ""),
        note=status.get("note", ""),
        progress=status.get("progress", []),
        metrics=metrics.get("methods", {}) if finished else {},
        counts=metrics.get("counts", {}) if finished else status.get("counts", {}),
        error=status.get("error", ""),
        submitted_at=status.get("submitted_at", ""),
    )


def list_benchmarks(redis: Redis, settings: Settings) -> list[RunView]:
    """All runs on the shared volume, newest first; damaged ones are left out."""
    views = []
    for run_id in list_runs(settings.runs_folder):
        try:
            views.append(benchmark_status(redis, settings, run_id))
        except XRError as error:
            logger.warning("run %s cannot be shown: %s", run_id, error)
    return views


def cancel_benchmark(redis: Redis, settings: Settings, run_id: str) -> RunView:
    """Stop a run; what it has finished stays. A run that is over stays as it is.

    A running one says so itself, within about half a second; see `benchmark_status`.

    Raises: ConfigurationError: no such run.
    """
    view = benchmark_status(redis, settings, run_id)
    if view.state in OVER:
        return view
    redis.set(cancel_key(run_id), 1, ex=_FLAG_KEPT_S)
    job = _job(redis, run_id)
    if job is not None and job.get_status() == JobStatus.QUEUED:
        job.cancel()
    if not redis.exists(owner_key(run_id)):  # nobody is there to say it
        change_status(settings.runs_folder, run_id, state=CANCELLED)
        redis.delete(run_key(run_id))
    return benchmark_status(redis, settings, run_id)


def resume_benchmark(redis: Redis, settings: Settings, run_id: str) -> RunView:
    """Queue a failed, cancelled or lost run again; it goes on where it was.

    Raises: ConfigurationError: no such run. PermanentError: it is finished, or under way.
    """
    view = benchmark_status(redis, settings, run_id)
    if view.state not in (FAILED, CANCELLED):
        raise PermanentError(f"run {run_id} is {view.state}: there is nothing to resume")
    redis.delete(cancel_key(run_id), run_key(run_id))
    change_status(settings.runs_folder, run_id, state=QUEUED, error="")
    _enqueue(redis, run_id)
    return benchmark_status(redis, settings, run_id)


def job_id_of(run_id: str) -> str:
    """RQ's id of the run's job; RQ allows letters, digits, underscores and dashes only."""
    return f"run-{hashlib.sha256(run_id.encode()).hexdigest()[:32]}"


def _enqueue(redis: Redis, run_id: str) -> None:
    benchmark_queue(redis).enqueue(
        FUNCTION,
        run_id,
        job_id=job_id_of(run_id),
        description=run_id,
        retry=retry_policy(),
        result_ttl=_FLAG_KEPT_S,
        failure_ttl=_FLAG_KEPT_S,
    )


def _job(redis: Redis, run_id: str) -> Job | None:
    try:
        return Job.fetch(job_id_of(run_id), connection=redis, serializer=MsgpackSerializer)
    except NoSuchJobError:
        return None


def _exists(settings: Settings, run_id: str) -> bool:
    try:
        run_folder(settings.runs_folder, run_id)
    except ConfigurationError:
        return False
    return True


def _live_status(redis: Redis, run_id: str) -> dict[str, Any] | None:
    payload = redis.hget(run_key(run_id), "status")
    if not isinstance(payload, bytes):
        return None
    status: dict[str, Any] = json.loads(payload)
    return status


def _with_the_death_of_its_job(redis: Redis, run_id: str, status: dict[str, Any]) -> dict[str, Any]:
    """A run whose coordinator is gone for good does not run, whatever it said last."""
    if redis.exists(owner_key(run_id)):
        return status
    job = _job(redis, run_id)
    if job is None:
        why = "its job is not in the queue (was Redis emptied?); resume it"
    elif job.get_status() in _GONE:
        why = "its coordinator died too often; see the log, then resume it"
    else:
        state = QUEUED if status.get("state") == RUNNING else status.get("state")
        return {**status, "state": state}
    return {**status, "state": FAILED, "error": status.get("error") or why}


def _live_agents(redis: Redis) -> list[LiveAgent]:
    """As `BusClient.live_agents`, for callers without an event loop."""
    names = redis.smembers(keys.AGENTS)
    assert isinstance(names, set)
    beats = [redis.get(keys.heartbeat(name.decode())) for name in names if isinstance(name, bytes)]
    return [
        msgspec.msgpack.decode(beat, type=LiveAgent) for beat in beats if isinstance(beat, bytes)
    ]
