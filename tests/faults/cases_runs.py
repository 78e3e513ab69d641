"""Runs and searches beside each other: two coordinators, one submission twice, cancel, priority."""

from __future__ import annotations

import signal
import statistics
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx

from broker.run_store import PARTIAL, PREDICTIONS
from shared.datasets import load_dataset
from tests.faults.catalogue import case
from tests.faults.processes import AGENTS
from tests.faults.system import FaultSuiteError, System, wait_for
from tests.faults.watched_run import Outcome, WatchedRun, recorded_states, torn_files
from tests.faults.workplace import Workplace

_SUBMISSIONS = 8
_QUEUED = 1000
_IDLE_LIMIT_S = 2.0
_RESULTS_TIMEOUT_S = 15.0
_SEARCHING_USERS, _FEWEST_SEARCHES = 3, 10
_REQUEST_MS = 1.0
_CALIBRATION_S = 5.0


@case(
    "two-coordinators",
    "a second coordinator for the same run, then kill -9 of the first",
    "only one works at a time, the other takes over; the same bytes, each query once",
)
def two_coordinators(workplace: Workplace, name: str) -> Outcome:
    with workplace.system(name) as system, WatchedRun.submit(system, workplace.task) as run:
        run.reach(0.15)
        system.spare("another", "tests.faults.another_coordinator", run.id)
        wait_for("the second waits", lambda: "waiting for its lease" in system.log("another"), 30.0)
        run.reach(0.4)
        system.signal("coordinator", signal.SIGKILL)
        killed_at = time.monotonic()
        return run.judge(workplace.reference, killed_at)


@case(
    "submitted-twice",
    f"the same benchmark submitted {_SUBMISSIONS} times at once with one Idempotency-Key",
    "one run; the same bytes, each query once",
)
def submitted_twice(workplace: Workplace, name: str) -> Outcome:
    task = workplace.task
    body = {
        "dataset": task.dataset, "split": task.split, "knobs": task.knobs, "limit": task.queries,
    }  # fmt: skip
    with workplace.system(name) as system:
        url = f"{system.settings.gateway_url}/v1/benchmarks"

        def submit(_: int) -> str:
            answer = httpx.post(url, json=body, headers={"Idempotency-Key": name}, timeout=30.0)
            answer.raise_for_status()
            return str(answer.json()["id"])

        with ThreadPoolExecutor(_SUBMISSIONS) as pool:
            ids = set(pool.map(submit, range(_SUBMISSIONS)))
        problems = [] if len(ids) == 1 else [f"{len(ids)} different runs were answered"]
        view = system.client.benchmark(ids.pop())
        with WatchedRun(system, task, view) as run:
            run.end()
            others = [
                other for other in system.client.benchmarks()
                if other.id != run.id and other.state != "cancelled"
            ]  # fmt: skip
            if others:
                problems.append(f"there is another run: {others[0].id} is {others[0].state}")
            listed = len(system.client.benchmarks())
            return run.judge(
                workplace.reference, None, problems=tuple(problems),
                remarks=(f"{listed} runs are listed",),
            )  # fmt: skip


@case(
    "cancel",
    f"cancel while at least {_QUEUED} messages are queued",
    f"agents idle within {_IDLE_LIMIT_S:g} s, the run says cancelled, what was answered is there",
)
def cancel(workplace: Workplace, name: str) -> Outcome:
    given = {"XR_VERIFY_CHUNK": "1", "XR_WINDOW": "64"}
    with (
        workplace.system(name, given=given) as system,
        WatchedRun.submit(system, workplace.task) as run,
    ):
        run.reach(0.1)
        queued = wait_for(
            f"{_QUEUED} messages are queued",
            lambda: n if (n := sum(map(system.queued, AGENTS))) >= _QUEUED else 0,
            60.0,
        )
        cancelled_at = time.monotonic()
        system.client.cancel(run.id)
        wait_for("all agents are idle", lambda: not any(map(system.queued, AGENTS)), 60.0)
        idle_s = time.monotonic() - cancelled_at
        view = wait_for(
            "the run says that it was cancelled",
            lambda: v if (v := run.view()) and v.state == "cancelled" else None,
            30.0,
        )
        said_s = time.monotonic() - cancelled_at
        run.stop_watching()
        wrong = _wrong_predictions(run, workplace)
        states = recorded_states(run.folder)
        problems = torn_files(run.folder)
        if idle_s > _IDLE_LIMIT_S:
            problems.append(f"the agents were idle only after {idle_s:.1f} s")
        if not states or view.state != "cancelled":
            problems.append("nothing is there of what was answered")
        if any(state.status != "ok" for state in states):
            problems.append("queries that were under way are recorded as failed")
        return Outcome(
            attempted=len(states),
            recorded=len({state.query_id for state in states}),
            duplicated=len(states) - len({state.query_id for state in states}),
            remarks=(
                f"{queued} messages queued; agents idle after {idle_s:.2f} s, state cancelled "
                f"after {said_s:.2f} s, {len(states)} answered queries are there",
            ),
            problems=(*problems, *wrong),
        )


def _wrong_predictions(run: WatchedRun, workplace: Workplace) -> list[str]:
    """A cancelled run's partial results: the undisturbed run's, of what was answered."""
    path = run.folder / f"{PARTIAL}{PREDICTIONS}"
    try:
        wait_for("partial predictions", path.is_file, _RESULTS_TIMEOUT_S)
    except FaultSuiteError as error:
        return [str(error)]
    answered = {state.query_id for state in recorded_states(run.folder)}
    expected = [
        line for query_id, line in workplace.reference.lines().items() if query_id in answered
    ]
    return [] if path.read_bytes().splitlines() == expected else ["partial predictions differ"]


@case(
    "search-first",
    "interactive searches while a benchmark fills every queue",
    "p95 under the time of three full benchmark batches",
)
def search_first(workplace: Workplace, name: str) -> Outcome:
    given = {"XR_WINDOW": "128"}
    with (
        workplace.system(name, call_ms=20.0, request_ms=_REQUEST_MS, given=given) as system,
        WatchedRun.submit(system, workplace.task) as run,
    ):
        run.reach(0.03)
        batch_s = _benchmark_batch_s(system)
        seconds: list[float] = []
        problems: list[str] = []
        while run.recorded < 0.9 * workplace.task.queries and not problems:
            searches = [
                SearchInBackground(system, workplace, len(seconds) + user)
                for user in range(_SEARCHING_USERS)
            ]
            for search in searches:
                if search.status() != 200:
                    problems.append(f"a search was answered with {search.status()}: {search.text}")
                seconds.append(search.seconds)
        if len(seconds) < _FEWEST_SEARCHES:
            problems.append(f"only {len(seconds)} searches in the time of a run")
            return run.judge(workplace.reference, None, problems=tuple(problems))
        p95 = statistics.quantiles(seconds, n=20)[-1]
        if p95 > 3 * batch_s:
            problems.append(f"p95 is {p95:.2f} s, three batches take {3 * batch_s:.2f} s")
        remark = (
            f"{len(seconds)} searches, {_SEARCHING_USERS} at a time: "
            f"p50 {statistics.median(seconds):.2f} s, p95 {p95:.2f} s; "
            f"a full benchmark batch {batch_s:.2f} s"
        )
        return run.judge(workplace.reference, None, remarks=(remark,), problems=tuple(problems))


def _benchmark_batch_s(system: System) -> float:
    """How long a full batch of the question agent takes while there is only the benchmark.

    The agent is busy all the time: so much as it takes for as many messages as a batch may hold.
    """

    def answered() -> int:
        (view,) = [view for view in system.client.agents() if view.agent == "question"]
        return sum(worker.counts["answered"] for worker in view.details)

    def next_beat(known: int) -> tuple[int, float]:
        counted = wait_for(
            "another heartbeat", lambda: n if (n := answered()) > known else None, 30.0
        )
        return counted, time.monotonic()

    first, began = next_beat(answered())
    last, ended = next_beat(first)
    while ended - began < _CALIBRATION_S:
        last, ended = next_beat(last)
    return system.settings.max_batch * (ended - began) / (last - first)


class SearchInBackground:
    """One interactive search over HTTP, in a thread of its own."""

    def __init__(
        self, system: System, workplace: Workplace, number: int = 0, url: str = ""
    ) -> None:
        self.seconds = 0.0
        self.text = ""
        self._status = 0
        self._url = url or system.settings.gateway_url
        self._body = _search_body(system, workplace, number)
        self._thread = threading.Thread(target=self._ask, daemon=True)
        self._thread.start()

    def is_under_way(self, system: System) -> bool:
        """Whether one of its messages is in an agent's queue or hands."""
        with system.redis() as redis:
            return any(int(redis.xlen(f"xr:{agent}:hi")) for agent in AGENTS)

    def status(self) -> int:
        """The HTTP status, waited for; 0 when the connection broke."""
        self._thread.join()
        return self._status

    def _ask(self) -> None:
        began = time.monotonic()
        try:
            answer = httpx.post(f"{self._url}/v1/search", json=self._body, timeout=120.0)
            self._status, self.text = answer.status_code, answer.text[:300]
        except httpx.TransportError as error:
            self.text = str(error)
        self.seconds = time.monotonic() - began


def _search_body(system: System, workplace: Workplace, number: int) -> dict[str, Any]:
    """One of the task's own queries, asked as a search."""
    task = workplace.task
    queries = load_dataset(task.dataset, task.split, workplace.data_root).queries
    query = queries[number % len(queries)]
    (gallery,) = [path.name for path in system.settings.galleries_folder.iterdir() if path.is_dir()]
    return {
        "gallery": gallery,
        "reference_image_id": query.reference_id,
        "modification_text": query.modification_text,
        "knobs": task.knobs,
    }
