"""Submits one real run and watches what every process spends on it, from outside."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from broker.run_status import FINISHED
from broker.run_store import MANIFEST, STATES, STATUS, read_json, read_states, run_folder
from broker.state_log import read_frames
from broker.submission import RunRequest, connect_sync, submit_benchmark
from tests.benchmarks.engines import MODELS, RANKING
from tests.benchmarks.meters import (
    children_of,
    cpu_of,
    disk_bytes,
    folder_bytes,
    is_alive,
    peak_memory_mb,
    read_call_meters,
)
from tests.benchmarks.stack import Stack
from tests.benchmarks.workplace import DATASET, SPLIT

CANDIDATES, QUESTIONS = 100, 3

_POLL_S = 0.01
_TIMEOUT_S = 1800.0
_FEWEST_QUESTIONS = 0.98

Found = TypeVar("Found")


@dataclass(frozen=True)
class Spent:
    """CPU seconds between two moments.

    Attributes:
        processes: process kind -> CPU seconds; the coordinator's with those of the RQ worker.
        ranking, models: of which by the ranking, and by the zero-cost models.
        seconds: on the clock.
    """

    processes: dict[str, float]
    ranking: float
    models: float
    seconds: float

    def since(self, before: Spent) -> Spent:
        return Spent(
            {name: cpu_s - before.processes[name] for name, cpu_s in self.processes.items()},
            self.ranking - before.ranking,
            self.models - before.models,
            self.seconds - before.seconds,
        )


@dataclass(frozen=True)
class RunCost:
    """What one run has cost.

    Attributes:
        answering: from the first query asked to the last one recorded.
        evaluation_s: CPU seconds of the coordinator from there to the end of its process.
        run_bytes: size of the run's folder at its end.
        state_bytes: of which the states of the queries.
        redis_bytes: growth of Redis's append-only file while the queries were answered.
        disk_bytes: what the coordinator and Redis made the system write to the disk from the first
            query to the end (whole pages); None where the system doesn't say.
        answering_peak_mb, peak_mb: the coordinator's peak memory (10^6 bytes) until the last query
            was recorded, and until its end.
    """

    queries: int
    answering: Spent
    evaluation_s: float
    run_bytes: int
    state_bytes: int
    redis_bytes: int
    disk_bytes: int | None
    answering_peak_mb: float
    peak_mb: float


def idle_cost(stack: Stack, seconds: float) -> Spent:
    """What the processes spend while there is nothing to do."""
    before = _spent(stack, None)
    time.sleep(seconds)
    return _spent(stack, None).since(before)


def measure_run(stack: Stack, queries: int) -> RunCost:
    """Submit a run of the first `queries` queries and watch it to its end.

    Raises: RuntimeError: it failed, or did less than it should have done.
    """
    worker = stack.process_ids()["coordinator"]
    former_children_s = cpu_of(worker).children_s
    with contextlib.closing(connect_sync(stack.settings.redis_url)) as redis:
        request = RunRequest(dataset=DATASET, split=SPLIT, name="overhead", limit=queries)
        run_id = submit_benchmark(redis, stack.settings, request)
    folder = run_folder(stack.settings.runs_folder, run_id)
    records = _Records(folder / STATES)

    coordinator = _until(stack, lambda: children_of(worker))[0]

    def ended() -> bool:
        return not is_alive(coordinator)

    # The manifest is written right before the first query is asked.
    _until(stack, lambda: (folder / MANIFEST).exists() or ended())
    if ended():
        raise RuntimeError(f"the coordinator has ended early:\n{stack.end_of_log('coordinator')}")
    begun, redis_began = _spent(stack, coordinator), folder_bytes(stack.redis_folder)
    disk_began = _disk_bytes(stack, coordinator)
    _until(stack, lambda: records.count() >= queries or ended())
    if ended():
        raise RuntimeError(f"the coordinator has ended early:\n{stack.end_of_log('coordinator')}")
    done, redis_done = _spent(stack, coordinator), folder_bytes(stack.redis_folder)
    disk_done = _disk_bytes(stack, coordinator)
    answering_peak_mb = peak_mb = peak_memory_mb(coordinator)
    while not ended():
        peak_mb = max(peak_mb, peak_memory_mb(coordinator))
        disk_done = _disk_bytes(stack, coordinator) or disk_done
        time.sleep(_POLL_S)
    after = cpu_of(worker)
    _check_work(stack, run_id, queries)
    whole_s = after.own_s + after.children_s - former_children_s
    return RunCost(
        queries=queries,
        answering=done.since(begun),
        evaluation_s=whole_s - done.processes["coordinator"],
        run_bytes=folder_bytes(folder),
        state_bytes=(folder / STATES).stat().st_size,
        redis_bytes=redis_done - redis_began,
        disk_bytes=None if disk_began is None or disk_done is None else disk_done - disk_began,
        answering_peak_mb=answering_peak_mb,
        peak_mb=peak_mb,
    )


class _Records:
    """Counts the records of a states.log that is being written."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._read = self._count = 0

    def count(self) -> int:
        with contextlib.suppress(FileNotFoundError), self._path.open("rb") as file:
            file.seek(self._read)
            payloads, whole = read_frames(file.read(), self._path)
            self._read += whole
            self._count += len(payloads)
        return self._count


def _spent(stack: Stack, coordinator: int | None) -> Spent:
    processes = {name: cpu_of(pid).own_s for name, pid in stack.process_ids().items()}
    if coordinator is not None:
        processes["coordinator"] += cpu_of(coordinator).own_s
    return Spent(
        processes,
        read_call_meters(stack.meters, RANKING),
        read_call_meters(stack.meters, MODELS),
        time.monotonic(),
    )


def _disk_bytes(stack: Stack, coordinator: int) -> int | None:
    written = [disk_bytes(pid) for pid in (coordinator, stack.process_ids()["redis"])]
    known = [count for count in written if count is not None]
    return sum(known) if len(known) == len(written) else None


def _until(stack: Stack, found: Callable[[], Found]) -> Found:
    """Poll until `found` returns something. Raises: RuntimeError: a process ended; it took long."""
    end = time.monotonic() + _TIMEOUT_S
    while not (what := found()):
        stack.check()
        if time.monotonic() > end:
            raise RuntimeError(f"nothing has happened for {_TIMEOUT_S:.0f} s")
        time.sleep(_POLL_S)
    return what


def _check_work(stack: Stack, run_id: str, queries: int) -> None:
    """A run that failed, or asked less than this benchmark stands for, measures nothing."""
    status = read_json(stack.settings.runs_folder, run_id, STATUS) or {}
    if status.get("state") != FINISHED:
        raise RuntimeError(f"run {run_id} is {status.get('state')}: {status.get('error')}")
    states = read_states(stack.settings.runs_folder, run_id)
    if len(states) != queries:
        raise RuntimeError(f"run {run_id} has {len(states)} states of {queries} queries")
    asked = 0
    for state in states.values():
        answers = [state.image_answers, state.caption_answers]
        shapes = [verification.table()[1].shape for verification in answers if verification]
        if state.status != "ok" or [shape[0] for shape in shapes] != [CANDIDATES, CANDIDATES]:
            raise RuntimeError(
                f"query {state.query_id} of run {run_id} is {state.status} ({state.reason}), with"
                f" answers {shapes} instead of two about {CANDIDATES} candidates each"
            )
        asked += shapes[0][1]
    # Models that answer by hash ask the same question twice now and then; it is dropped then.
    if asked < _FEWEST_QUESTIONS * QUESTIONS * queries:
        raise RuntimeError(f"run {run_id} asked {asked} questions, not {QUESTIONS} of each query")
