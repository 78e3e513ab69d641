"""One benchmark run under way, watched through what it writes, and what has become of it."""

from __future__ import annotations

import contextlib
import itertools
import json
import threading
import time
from collections import Counter
from collections.abc import Collection
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from broker.query_state import QueryState
from broker.recorded_states import decode_record
from broker.run_store import PREDICTIONS, STATES
from broker.state_log import read_frames
from gateway.client import GatewayError, GatewayUnreachableError
from gateway.records import TERMINAL_STATES, BenchmarkView
from tests.faults.system import FaultSuiteError, System, wait_for

RECOVERY_LIMIT_S = 30.0
_POLL_S = 0.02
_END_TIMEOUT_S = 300.0


@dataclass(frozen=True)
class Task:
    """What every run of a suite asks for."""

    dataset: str
    split: str
    queries: int
    knobs: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Reference:
    """What the undisturbed run gave: its predictions, line by line, and how long it took."""

    predictions: bytes
    seconds: float

    def lines(self) -> dict[str, bytes]:
        return prediction_lines(self.predictions)


@dataclass(frozen=True)
class Outcome:
    """What has become of a run.

    Attributes:
        attempted, recorded: queries asked for, and those with a state on the disk.
        lost: attempted and not recorded.
        duplicated: states more than one of a query.
        recovery_s: the longest time from the fault on without a newly recorded query (what the case
            says it waits for is left out); None where nothing was to recover from.
        remarks: what else was measured.
        problems: what was not as it should be; empty = the case has passed.
        skipped: why it could not be tried here.
    """

    attempted: int = 0
    recorded: int = 0
    duplicated: int = 0
    recovery_s: float | None = None
    remarks: tuple[str, ...] = ()
    problems: tuple[str, ...] = ()
    skipped: str = ""

    @property
    def lost(self) -> int:
        return self.attempted - self.recorded


class WatchedRun:
    """A run submitted over HTTP; a thread notes when each of its queries is recorded."""

    def __init__(self, system: System, task: Task, view: BenchmarkView) -> None:
        self.id = view.id
        self.folder = Path(view.run_folder)
        self.task = task
        self._system = system
        self._recorded_at: list[float] = []
        self._began = time.monotonic()
        self._ended = threading.Event()
        self._watcher = threading.Thread(target=self._watch, daemon=True)
        self._watcher.start()

    @classmethod
    def submit(cls, system: System, task: Task, name: str = "") -> Self:
        view = system.client.submit(
            task.dataset, task.split, name=name, knobs=task.knobs, limit=task.queries
        )
        return cls(system, task, view)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.stop_watching()

    @property
    def recorded(self) -> int:
        """Queries recorded so far."""
        return len(self._recorded_at)

    def reach(self, fraction: float, timeout_s: float = 180.0) -> float:
        """Returns the time when that share of the queries is recorded."""
        wanted = fraction * self.task.queries
        wait_for(
            f"{wanted:.0f} of {self.task.queries} queries are recorded",
            lambda: self.recorded >= wanted,
            timeout_s,
        )
        return time.monotonic()

    def go_on(self, timeout_s: float = RECOVERY_LIMIT_S * 2) -> float:
        """Returns the time when one more query is recorded than now."""
        known = self.recorded
        wait_for("another query is recorded", lambda: self.recorded > known, timeout_s)
        return time.monotonic()

    def view(self) -> BenchmarkView | None:
        """The run as the gateway shows it; None while there is no gateway (or no Redis)."""
        try:
            return self._system.client.benchmark(self.id)
        except (GatewayUnreachableError, GatewayError):
            return None

    def end(self, timeout_s: float = _END_TIMEOUT_S) -> BenchmarkView:
        """The run once it is over."""

        def over() -> BenchmarkView | None:
            view = self.view()
            return view if view is not None and view.state in TERMINAL_STATES else None

        view = wait_for("the end of the run", over, timeout_s, poll_s=0.25)
        self.stop_watching()
        return view

    def stop_watching(self) -> None:
        self._ended.set()
        self._watcher.join()

    @property
    def seconds(self) -> float:
        """From the submission to the last query recorded."""
        return self._recorded_at[-1] - self._began if self._recorded_at else 0.0

    def longest_pause_s(self, since: float) -> float:
        """The longest time without a newly recorded query, from `since` to the last query."""
        times = [since, *(at for at in self._recorded_at if at >= since)]
        return max((later - at for at, later in itertools.pairwise(times)), default=0.0)

    def judge(
        self,
        reference: Reference,
        since: float | None,
        *,
        may_differ: Collection[str] = (),
        remarks: tuple[str, ...] = (),
        problems: tuple[str, ...] = (),
    ) -> Outcome:
        """Wait for the end and compare with the undisturbed run.

        Args:
            since: when the fault was (or when what caused it was over); None = no recovery.
            may_differ: the queries that the fault is meant to make fail; all must have failed.
            problems: what the case itself has found.
        """
        view = self.end()
        states = recorded_states(self.folder)
        counts = Counter(state.query_id for state in states)
        latest = {state.query_id: state for state in states}
        failed = {query_id for query_id, state in latest.items() if state.status != "ok"}
        found = list(problems)
        if view.state != "finished":
            found.append(f"the run is {view.state}: {view.error}")
        if unexpected := sorted(failed - set(may_differ)):
            reason = latest[unexpected[0]].reason
            found.append(f"{len(unexpected)} queries failed, {unexpected[0]} so: {reason}")
        if missing := sorted(set(may_differ) - failed):
            found.append(f"queries that should have failed did not: {', '.join(missing)}")
        found += _differences(self.folder / PREDICTIONS, reference, may_differ)
        recovery_s = None if since is None else self.longest_pause_s(since)
        if recovery_s is not None and recovery_s > RECOVERY_LIMIT_S:
            found.append(f"{recovery_s:.1f} s without a recorded query")
        outcome = Outcome(
            attempted=self.task.queries,
            recorded=len(counts),
            duplicated=sum(counts.values()) - len(counts),
            recovery_s=recovery_s,
            remarks=remarks,
        )
        if outcome.lost or outcome.duplicated:
            found.append(f"{outcome.lost} queries lost, {outcome.duplicated} recorded again")
        return _with_problems(outcome, found)

    def _watch(self) -> None:
        """Reads what is new in states.log; a torn end is read once it is whole."""
        read = 0
        path = self.folder / STATES
        while True:
            ended = self._ended.is_set()  # read once more after the end
            with contextlib.suppress(OSError), path.open("rb") as log:
                log.seek(read)
                payloads, whole = read_frames(log.read(), path)
                read += whole
                self._recorded_at += [time.monotonic()] * len(payloads)
            if ended:
                return
            self._ended.wait(_POLL_S)


def recorded_states(folder: Path) -> list[QueryState]:
    """Every state that was ever recorded of a run, in the order of recording."""
    path = folder / STATES
    if not path.exists():
        return []
    payloads, _ = read_frames(path.read_bytes(), path)
    return [decode_record(payload, path, number) for number, payload in enumerate(payloads)]


def prediction_lines(predictions: bytes) -> dict[str, bytes]:
    """Query id -> its line."""
    return {json.loads(line)["query_id"]: line for line in predictions.splitlines()}


def torn_files(folder: Path) -> list[str]:
    """Files of a run folder that do not hold what their name says, one line each."""
    torn = []
    for path in sorted(folder.rglob("*")):
        try:
            if path.suffix == ".json":
                json.loads(path.read_bytes())
            elif path.suffix == ".jsonl":
                [json.loads(line) for line in path.read_bytes().splitlines()]
        except ValueError as error:
            torn.append(f"{path.name} is torn: {error}")
    return torn


def _differences(path: Path, reference: Reference, may_differ: Collection[str]) -> list[str]:
    if not path.is_file():
        return [f"there is no {path.name}"]
    content = path.read_bytes()
    if content == reference.predictions:
        return []
    ours, theirs = prediction_lines(content), reference.lines()
    if list(ours) != list(theirs):
        return [f"{path.name} holds other queries, or in another order"]
    other = [query for query in ours if ours[query] != theirs[query] and query not in may_differ]
    if not other:
        return []
    return [f"the predictions of {len(other)} queries differ, the first of them {other[0]}"]


def _with_problems(outcome: Outcome, problems: list[str]) -> Outcome:
    return replace(outcome, problems=tuple(problems))


def require(condition: bool, what: str) -> None:
    """Raises: FaultSuiteError: the case can't mean anything without this."""
    if not condition:
        raise FaultSuiteError(what)
