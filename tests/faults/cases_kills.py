"""kill -9 of every kind of process in mid-batch, one at a time and in a storm; frozen workers."""

from __future__ import annotations

import os
import signal
import time

from tests.faults.catalogue import case
from tests.faults.processes import AGENTS, environment_of
from tests.faults.system import System, wait_for
from tests.faults.watched_run import Outcome, WatchedRun
from tests.faults.workplace import CALL_MS, Workplace

KILLED = ("imagination", "similarity", "question", "horse", "coordinator", "gateway")
_STORM_S, _STORM_INTERVAL_S = 60.0, 3.0
_LEASE_S = 15.0


def _kill(workplace: Workplace, name: str, kind: str) -> Outcome:
    draw = workplace.draw(name)
    with workplace.system(name) as system, WatchedRun.submit(system, workplace.task) as run:
        run.reach(draw.uniform(0.15, 0.4))
        held = await_batch(system, kind, draw.uniform(0.1, 0.9)) if kind in AGENTS else 0
        killed = system.signal(kind)
        killed_at = time.monotonic()
        wait_for(
            f"another {kind} process runs",
            lambda: set(system.pids(kind)) - {killed} or run.view() is None,
            60.0,
        )
        remark = (f"{held} messages in its hands",) if held else ()
        return run.judge(workplace.reference, killed_at, remarks=remark)


def await_batch(system: System, agent: str, share: float) -> int:
    """Return within a call of an agent's engine, `share` of it past; how many messages it holds."""
    held = wait_for(f"{agent} has a batch in hand", lambda: system.in_hand(agent), 60.0)
    time.sleep(share * CALL_MS / 1000)
    return held


@case("kill-imagination", "kill -9 of the imagination agent in mid-batch")
def kill_imagination(workplace: Workplace, name: str) -> Outcome:
    return _kill(workplace, name, "imagination")


@case("kill-similarity", "kill -9 of the similarity agent in mid-batch")
def kill_similarity(workplace: Workplace, name: str) -> Outcome:
    return _kill(workplace, name, "similarity")


@case("kill-question", "kill -9 of the question agent in mid-batch")
def kill_question(workplace: Workplace, name: str) -> Outcome:
    return _kill(workplace, name, "question")


@case("kill-horse", "kill -9 of the coordinator's process of this run")
def kill_horse(workplace: Workplace, name: str) -> Outcome:
    return _kill(workplace, name, "horse")


@case("kill-coordinator", "kill -9 of the RQ worker that keeps the coordinator")
def kill_coordinator(workplace: Workplace, name: str) -> Outcome:
    return _kill(workplace, name, "coordinator")


@case("kill-gateway", "kill -9 of the gateway")
def kill_gateway(workplace: Workplace, name: str) -> Outcome:
    return _kill(workplace, name, "gateway")


@case("kill-storm", "kill -9 of a random process every 3 s for a minute")
def kill_storm(workplace: Workplace, name: str) -> Outcome:
    draw = workplace.draw(name)
    queries = workplace.task.queries
    with workplace.system(name) as system, WatchedRun.submit(system, workplace.task) as run:
        run.reach(0.05)
        storm_at = time.monotonic()
        killed: list[str] = []
        while (late := time.monotonic() - storm_at) < _STORM_S and run.recorded < queries:
            living = [kind for kind in KILLED if system.pids(kind)]
            kind = draw.choice(living)
            system.signal(kind)
            killed.append(kind)
            pause_s = _STORM_INTERVAL_S * (len(killed)) - late
            time.sleep(max(0.0, pause_s))
        stormed_s = time.monotonic() - storm_at
        counts = ", ".join(f"{killed.count(kind)} {kind}" for kind in KILLED if kind in killed)
        calm_at = time.monotonic()
        remarks = (f"{len(killed)} kills in {stormed_s:.0f} s: {counts}",)
        return run.judge(workplace.reference, min(calm_at, storm_at + _STORM_S), remarks=remarks)


@case("restart-all", "kill -9 of all agents and the coordinator at once")
def restart_all(workplace: Workplace, name: str) -> Outcome:
    with workplace.system(name) as system, WatchedRun.submit(system, workplace.task) as run:
        run.reach(workplace.draw(name).uniform(0.2, 0.4))
        for kind in (*AGENTS, "coordinator"):
            system.signal(kind)
        return run.judge(workplace.reference, time.monotonic())


@case(
    "freeze-question",
    "a question agent frozen past its lease (SIGSTOP), then woken; another one runs beside it",
    "its late answers are not recorded; the same bytes, every query recorded once",
)
def freeze_question(workplace: Workplace, name: str) -> Outcome:
    with (
        workplace.system(name, processes=2) as system,
        WatchedRun.submit(system, workplace.task) as run,
    ):
        run.reach(0.15)
        wait_for(
            "question-1 has a batch in hand", lambda: system.in_hand("question", "question-1"), 60.0
        )
        time.sleep(0.3 * CALL_MS / 1000)
        frozen = next(
            process.pid
            for process in system.processes()
            if process.kind == "question" and _is_worker(process.pid, "question-1")
        )
        os.kill(frozen, signal.SIGSTOP)
        frozen_at = time.monotonic()
        held = system.in_hand("question", "question-1")
        try:
            wait_for(
                "its messages are taken over",
                lambda: system.in_hand("question", "question-1") == 0,
                3 * _LEASE_S,
            )
        finally:
            os.kill(frozen, signal.SIGCONT)
        late = wait_for(
            "the woken worker finds that it is late",
            lambda: "too late" in system.log("question-1"),
            30.0,
        )
        return run.judge(
            workplace.reference,
            frozen_at,
            remarks=(f"{held} messages in its hands when frozen",),
            problems=() if late else ("the woken worker did not notice",),
        )


def _is_worker(pid: int, worker: str) -> bool:
    return environment_of(pid).get("XR_WORKER_NAME") == worker
