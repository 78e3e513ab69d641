"""What the gateway calls: submit, cancel and resume runs; watch, replay and compare them.

Everything is synchronous.
"""

from __future__ import annotations

import contextlib
import hashlib
import logging
import re
import shutil
import time

import msgspec
from redis import Redis
from rq.exceptions import DuplicateJobError
from rq.job import JobStatus

from broker.agents_roster import clip_label, identities_of
from broker.coordinators import coordinators_now
from broker.restoring import restored
from broker.rq_job import FUNCTION
from broker.rq_worker import benchmark_queue, connect_sync, retry_policy
from broker.run_diff import RunDiff, diff_runs
from broker.run_keys import cancel_key, lost_key, owner_key, run_key, submission_key
from broker.run_queries import (
    Order,
    QueryEvidence,
    QueryRanks,
    RunQueries,
    in_order,
    query_evidence,
    run_queries,
)
from broker.run_report import Gain, QueryReport, RunReport, StageReport, report_run
from broker.run_status import CANCELLED, FAILED, OVER, QUEUED
from broker.run_store import (
    STATUS,
    RunRequest,
    change_status,
    clear_about_the_disk,
    create_run,
    read_json,
    run_folder,
)
from broker.run_studies import ReplayReport, SweepReport, replay_run, sweep_run
from broker.run_view import (
    RunView,
    benchmark_status,
    is_nobodys,
    is_untouched,
    job_id_of,
    job_of,
    list_benchmarks,
    run_files,
)
from broker.studies import Study, StudyName, StudyRow, study_names, study_run
from broker.sweep import Fusion, Grid
from shared.bus import keys
from shared.bus.presence import read_heartbeat
from shared.bus.records import LiveAgent
from shared.datasets import canonical_name, load_dataset
from shared.datasets.named_gallery import gallery_name, history_of
from shared.datasets.registry import FOLDER_PREFIX, folder_of
from shared.errors import ConfigurationError, PermanentError
from shared.knobs import resolve
from shared.profile_files import profile_knobs
from shared.settings import Settings

__all__ = [
    "Fusion",
    "Gain",
    "Grid",
    "Order",
    "QueryEvidence",
    "QueryRanks",
    "QueryReport",
    "ReplayReport",
    "RunDiff",
    "RunQueries",
    "RunReport",
    "RunRequest",
    "RunView",
    "StageReport",
    "Study",
    "StudyName",
    "StudyRow",
    "SweepReport",
    "benchmark_status",
    "cancel_benchmark",
    "check_request",
    "connect_sync",
    "coordinators_now",
    "diff_runs",
    "in_order",
    "is_untouched",
    "list_benchmarks",
    "query_evidence",
    "replay_run",
    "report_run",
    "resume_benchmark",
    "run_files",
    "run_queries",
    "study_names",
    "study_run",
    "submit_benchmark",
    "sweep_run",
]

logger = logging.getLogger(__name__)

_FLAG_KEPT_S = 7 * 24 * 3600
_SUBMISSION_KEPT_S = 24 * 3600
_NAME = re.compile(r"[A-Za-z0-9._-]{0,100}")


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
        if isinstance(known, bytes) and _exists(settings, known.decode("latin-1")):
            return _queued_for_certain(redis, settings, known.decode("latin-1"))
    request = msgspec.structs.replace(request, dataset=_pinned(settings, request))
    if not request.profile:
        request = msgspec.structs.replace(request, profile=settings.profile)
    served = identities_of(_live_agents(redis), ("similarity",)).get("similarity")
    run_id = create_run(settings.runs_folder, request, clip_label(served, request.profile))
    if idempotency_key and not redis.set(claim, run_id, nx=True, ex=_SUBMISSION_KEPT_S):
        other = redis.get(claim)  # the same submission came twice at once: the first one counts
        if isinstance(other, bytes) and _exists(settings, other.decode("latin-1")):
            shutil.rmtree(run_folder(settings.runs_folder, run_id))
            return _queued_for_certain(redis, settings, other.decode("latin-1"))
    with contextlib.suppress(DuplicateJobError):  # somebody with the same key was faster
        # Changes of a gallery are to be seen soon: they go before the benchmarks that wait.
        changes = request.index_only and gallery_name(request.dataset) is not None
        _enqueue(redis, run_id, only_once=True, at_front=changes)
    return run_id


def check_request(settings: Settings, request: RunRequest) -> None:
    """Find what is wrong with a request before anything is queued.

    Raises: ConfigurationError, DatasetError: what is wrong, and what would be right.
    """
    knobs = resolve(
        request.knobs, profile_knobs(request.profile or settings.profile), settings.seed
    )
    restored(settings, request, knobs)
    if not _NAME.fullmatch(request.name):
        raise ConfigurationError(
            f"name is {request.name!r}: use up to 100 letters, digits, dots, dashes, underscores"
        )
    if request.limit is not None and request.limit < 1:
        raise ConfigurationError(f"limit is {request.limit}: at least 1 query must be asked")
    # Both raise when there is no such data set.
    if canonical_name(request.dataset).startswith(FOLDER_PREFIX):
        folder_of(request.dataset, settings.data_root, settings.uploaded_galleries_folder)
    if (gallery := gallery_name(request.dataset)) is not None and request.index_only:
        history_of(settings.home, gallery.name)
    elif settings.data_root.is_dir():  # else only the coordinator can see the files
        load_dataset(request.dataset, request.split, settings.data_root, settings.home)


def _pinned(settings: Settings, request: RunRequest) -> str:
    """The data set by its one name; of a gallery the version that is there now."""
    gallery = gallery_name(request.dataset)
    if gallery is None:
        return canonical_name(request.dataset)
    history = history_of(settings.home, gallery.name)
    current = history.current()
    if request.index_only:
        version = history.last_change()
    else:
        version = gallery.version or (0 if current is None else current.number)
    return str(gallery._replace(version=version))


def cancel_benchmark(redis: Redis, settings: Settings, run_id: str) -> RunView:
    """Stop a run; what it has finished stays. A run that is over stays as it is.

    A running one says so itself, within about half a second; see `benchmark_status`.

    Raises: ConfigurationError: no such run.
    """
    view = benchmark_status(redis, settings, run_id)
    if view.state in OVER:
        return view
    redis.set(cancel_key(run_id), 1, ex=_FLAG_KEPT_S)
    job = job_of(redis, run_id)
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
    while view.state not in OVER and is_nobodys(redis, run_id):  # until that is certain
        time.sleep(0.5)
        view = benchmark_status(redis, settings, run_id)
    if view.state not in (FAILED, CANCELLED):
        raise PermanentError(f"run {run_id} is {view.state}: there is nothing to resume")
    with clear_about_the_disk(run_folder(settings.runs_folder, run_id), run_id):
        change_status(settings.runs_folder, run_id, state=QUEUED, error="")
    redis.delete(cancel_key(run_id), run_key(run_id), lost_key(run_id))
    _enqueue(redis, run_id)
    return benchmark_status(redis, settings, run_id)


def _enqueue(redis: Redis, run_id: str, only_once: bool = False, at_front: bool = False) -> None:
    """Queue the run's job in place of a former one.

    Raises: DuplicateJobError: there is one, and it was to be `only_once`.
    """
    benchmark_queue(redis).enqueue(
        FUNCTION,
        run_id,
        job_id=job_id_of(run_id),
        description=run_id,
        retry=retry_policy(),
        result_ttl=_FLAG_KEPT_S,
        failure_ttl=_FLAG_KEPT_S,
        unique=only_once,
        at_front=at_front,
    )


def _exists(settings: Settings, run_id: str) -> bool:
    try:
        run_folder(settings.runs_folder, run_id)
    except ConfigurationError:
        return False
    return True


def _queued_for_certain(redis: Redis, settings: Settings, run_id: str) -> str:
    """Queue a run again whose first submission ended (was killed) before it did; its id."""
    status = read_json(settings.runs_folder, run_id, STATUS) or {}
    if status.get("state") == QUEUED and is_nobodys(redis, run_id):
        with contextlib.suppress(DuplicateJobError):
            _enqueue(redis, run_id, only_once=True)
    return run_id


def _live_agents(redis: Redis) -> list[LiveAgent]:
    """As `BusClient.live_agents`, for callers without an event loop."""
    names = redis.smembers(keys.AGENTS)
    assert isinstance(names, set)
    named = [
        keys.heartbeat(name.decode(errors="replace")) for name in names if isinstance(name, bytes)
    ]
    beats = redis.mget(named) if named else []
    assert isinstance(beats, list)
    read = (read_heartbeat(beat) for beat in beats if isinstance(beat, bytes))
    return [agent for agent in read if agent is not None]
