"""A run as it is now: what the disk, Redis and its job say together. Everything is synchronous."""

from __future__ import annotations

import hashlib
import json
import logging
from typing import Any, Literal

import msgspec
from redis import Redis
from rq.exceptions import NoSuchJobError
from rq.job import Job, JobStatus

from broker.rq_job import BenchmarkJob
from broker.run_keys import lost_key, owner_key, run_key
from broker.run_status import CANCELLED, FAILED, FINISHED, OVER, QUEUED, RUNNING
from broker.run_store import (
    MANIFEST,
    METRICS,
    PARTIAL,
    STATUS,
    list_runs,
    read_json,
    read_request,
    run_folder,
)
from broker.serializer import MsgpackSerializer
from shared.errors import MALFORMED, XRError
from shared.settings import Settings

logger = logging.getLogger(__name__)

_LOST_AFTER_MS = 4_000
_LOST_KEPT_MS = 60_000
_GONE = frozenset({JobStatus.FAILED, JobStatus.STOPPED, JobStatus.CANCELED, JobStatus.FINISHED})


class RunView(msgspec.Struct, frozen=True, kw_only=True):
    """A run as it is now.

    Attributes:
        state: queued, running, finished, failed or cancelled.
        phase: gallery, agents, image_database, queries, evaluation or done.
        note: what is being waited for, if anything.
        progress: one entry per phase: phase, done, total, failed, rate_per_s, seconds.
        metrics: method -> metric -> fraction in [0, 1]; once finished.
        intervals: the same -> [low, high], the bounds of its 95 % interval.
        deviations: where the run differs from the data set's official protocol, in words.
        error: why it failed, or what stopped it the last time.
        owner: the API key it was submitted with; empty = none.
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
    intervals: dict[str, dict[str, list[float]]] = {}
    deviations: list[str] = []
    counts: dict[str, int] = {}
    error: str = ""
    submitted_at: str = ""
    owner: str = ""


class _Status(msgspec.Struct):
    """What a run's status must be to be shown; see `RunView`."""

    state: Literal["queued", "running", "finished", "failed", "cancelled"]
    phase: str = ""
    note: str = ""
    progress: list[dict[str, Any]] = []
    counts: dict[str, int] = {}
    error: str = ""
    submitted_at: str = ""


def benchmark_status(redis: Redis, settings: Settings, run_id: str) -> RunView:
    """One run as it is now. Raises: ConfigurationError: no such run."""
    request = read_request(settings.runs_folder, run_id)
    status = read_json(settings.runs_folder, run_id, STATUS) or {}
    if status.get("state") not in OVER:
        status = _live_status(redis, run_id) or status
        status = _with_the_death_of_its_job(redis, run_id, status)
    prefix = {FINISHED: "", CANCELLED: PARTIAL}.get(status.get("state", ""))
    finished = prefix is not None
    metrics = (finished and read_json(settings.runs_folder, run_id, f"{prefix}{METRICS}")) or {}
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
        intervals=metrics.get("intervals", {}) if finished else {},
        deviations=metrics.get("deviations", []) if finished else [],
        counts=metrics.get("counts", status.get("counts", {}))
        if finished
        else status.get("counts", {}),
        error=status.get("error", ""),
        submitted_at=status.get("submitted_at", ""),
        owner=request.owner,
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


def is_untouched(redis: Redis, settings: Settings, run_id: str) -> bool:
    """Whether a run is queued and no coordinator has begun with it."""
    try:
        view = benchmark_status(redis, settings, run_id)
    except XRError:
        return False
    job = job_of(redis, run_id)
    waits = job is not None and job.get_status() == JobStatus.QUEUED and not job.started_at
    return waits and view.state == QUEUED and not redis.exists(owner_key(run_id))


def run_files(settings: Settings, run_id: str) -> tuple[dict[str, Any], dict[str, Any]]:
    """The manifest and the metrics of a run, each {} while it is not there.

    Raises: ConfigurationError: no such run. PermanentError: a file is damaged.
    """
    manifest = read_json(settings.runs_folder, run_id, MANIFEST) or {}
    return manifest, read_json(settings.runs_folder, run_id, METRICS) or {}


def job_id_of(run_id: str) -> str:
    """RQ's id of the run's job; RQ allows letters, digits, underscores and dashes only."""
    return f"run-{hashlib.sha256(run_id.encode()).hexdigest()[:32]}"


def job_of(redis: Redis, run_id: str) -> Job | None:
    """The run's job in RQ, whatever has become of it; None where there is none."""
    try:
        return BenchmarkJob.fetch(job_id_of(run_id), connection=redis, serializer=MsgpackSerializer)
    except NoSuchJobError:
        return None


def _live_status(redis: Redis, run_id: str) -> dict[str, Any] | None:
    payload = redis.hget(run_key(run_id), "status")
    if not isinstance(payload, bytes):
        return None
    try:
        msgspec.json.decode(payload, type=_Status)
    except MALFORMED as error:
        logger.warning("the status of run %s in Redis cannot be read: %s", run_id, error)
        return None
    status: dict[str, Any] = json.loads(payload)
    return status


def _with_the_death_of_its_job(redis: Redis, run_id: str, status: dict[str, Any]) -> dict[str, Any]:
    """A run whose coordinator is gone for good does not run, whatever it said last."""
    if redis.exists(owner_key(run_id)):
        return status
    job = job_of(redis, run_id)
    if job is None:
        if status.get("state") == RUNNING and not _has_been_nobodys(redis, run_id):
            return status
        why = "Redis has lost its job (it was emptied, or restarted without its data)"
    elif job.get_status() in _GONE:
        why = "its coordinator died too often; the end of its log.txt may say of what"
    else:
        state = QUEUED if status.get("state") == RUNNING else status.get("state")
        return {**status, "state": state}
    why += f": `xr runs resume {run_id}` goes on with what is recorded"
    return {**status, "state": FAILED, "error": status.get("error") or why}


def is_nobodys(redis: Redis, run_id: str) -> bool:
    """Whether no coordinator owns the run and no job stands for it."""
    return not redis.exists(owner_key(run_id)) and job_of(redis, run_id) is None


def _has_been_nobodys(redis: Redis, run_id: str) -> bool:
    """Whether a run without owner and job was so some seconds ago already.

    A Redis that was emptied has lost owner and job of a coordinator that goes on all the same; it
    says so when it renews its lease.
    """
    marker = lost_key(run_id)
    redis.set(marker, 1, nx=True, px=_LOST_KEPT_MS)
    left_ms = redis.pttl(marker)
    assert isinstance(left_ms, int)
    return left_ms < _LOST_KEPT_MS - _LOST_AFTER_MS
