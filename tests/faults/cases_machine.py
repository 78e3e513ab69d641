"""What happens to a whole machine: power, disk, clock, an orderly stop, another version."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import httpx

from broker.run_store import STATES
from broker.state_log import frame
from tests.faults.cases_engines import xr
from tests.faults.cases_runs import SearchInBackground
from tests.faults.catalogue import case
from tests.faults.processes import AGENTS, processes_below
from tests.faults.system import System, free_port, wait_for
from tests.faults.watched_run import Outcome, WatchedRun, torn_files
from tests.faults.workplace import Workplace

_GRACE_S = 15.0
_SHOWN_AS_LOST_WITHIN_S = 15.0
"""It may be a coordinator's that goes on without Redis: that one gets some seconds to say so."""
_DISK_MB = 16
_HOUR_S = 3600


@case(
    "power-loss",
    "kill -9 of everything, Redis and `xr up` too, in mid-write; then `xr up` again",
    "no torn file, only work in flight repeated; the same bytes, each query once",
)
def power_loss(workplace: Workplace, name: str) -> Outcome:
    with workplace.system(name) as system, WatchedRun.submit(system, workplace.task) as run:
        run.reach(workplace.draw(name).uniform(0.3, 0.5))
        crashed_at = time.monotonic()
        _lose_power(system, run)
        system.start()
        return run.judge(
            workplace.reference, crashed_at, problems=(*_torn_after(run),),
            remarks=("goes on by itself; a record torn by hand was cut off",),
        )  # fmt: skip


@case(
    "power-loss-no-redis",
    "the same, and Redis's data are gone; `xr runs resume`",
    "no torn file, only work in flight repeated; the same bytes, each query once",
)
def power_loss_no_redis(workplace: Workplace, name: str) -> Outcome:
    with workplace.system(name) as system, WatchedRun.submit(system, workplace.task) as run:
        run.reach(workplace.draw(name).uniform(0.3, 0.5))
        _lose_power(system, run)
        for path in (system.home / "redis").glob("*.aof*"):
            path.unlink()
        system.start()
        started_at = time.monotonic()
        wait_for(
            "the lost run is shown as failed",
            lambda: (view := run.view()) is not None and view.state == "failed",
            _SHOWN_AS_LOST_WITHIN_S,
        )
        resumed_at = time.monotonic()
        shown = xr(system, "runs", "resume", run.id)
        problems = [f"xr runs resume: {shown}"] if shown.startswith("exit status") else []
        remark = f"shown as failed after {resumed_at - started_at:.1f} s"
        return run.judge(
            workplace.reference, resumed_at, remarks=(remark,),
            problems=(*problems, *_torn_after(run)),
        )  # fmt: skip


def _lose_power(system: System, run: WatchedRun) -> None:
    """Kill everything, and leave of the last record what a disk may: its first half."""
    system.crash()
    torn = frame(b"a state that was being written" * 50)
    with (run.folder / STATES).open("ab") as log:
        log.write(torn[: len(torn) // 2])


def _torn_after(run: WatchedRun) -> list[str]:
    run.end()
    return torn_files(run.folder)


@case(
    "disk-full",
    "the disk of the runs is full, then there is room again",
    "a clear error, then resumed; the same bytes, each query once",
)
def disk_full(workplace: Workplace, name: str) -> Outcome:
    system = workplace.system(name)
    runs = system.home / "runs"
    with _small_disk(runs) as mounted:
        if not mounted:
            return Outcome(skipped="needs the right to mount a small file system (root)")
        with system, WatchedRun.submit(system, workplace.task) as run:
            run.reach(0.3)
            filler = runs / "filler"
            _fill(filler)
            said = wait_for("the run says that the disk is full", lambda: _error_of(run), 60.0)
            time.sleep(3.0)  # tries to go on meanwhile must break nothing
            filler.unlink()
            room_at = time.monotonic()
            with suppress(Exception):  # it may have gone on by itself
                system.client.resume(run.id)
            problems = () if "space" in said.lower() else (f"the error does not say it: {said}",)
            remark = f"the error: {said.splitlines()[0].replace(str(run.folder), 'RUN')}"
            return run.judge(workplace.reference, room_at, remarks=(remark,), problems=problems)


def _error_of(run: WatchedRun) -> str:
    view = run.view()
    return "" if view is None else view.error or view.note


def _fill(filler: Path) -> None:
    with suppress(OSError), filler.open("wb", buffering=0) as file:
        while True:
            file.write(bytes(4096))


@contextmanager
def _small_disk(folder: Path) -> Iterator[bool]:
    folder.mkdir(parents=True)
    size = f"size={_DISK_MB}m"
    mounted = os.geteuid() == 0 and _succeeds("mount", "-t", "tmpfs", "-o", size, "tmpfs", folder)
    try:
        yield mounted
    finally:
        if mounted:
            _succeeds("umount", folder)


def _succeeds(*command: str | Path) -> bool:
    try:
        return subprocess.run(command, capture_output=True, check=False).returncode == 0
    except FileNotFoundError:
        return False


@case(
    "sigterm",
    "SIGTERM to one agent of each kind with a batch in hand, and to the coordinator in mid-run",
    f"exit 0 within {_GRACE_S:g} s, nothing lost; the same bytes, each query once",
)
def sigterm(workplace: Workplace, name: str) -> Outcome:
    with (
        workplace.system(name, call_ms=400.0) as system,
        WatchedRun.submit(system, workplace.task) as run,
    ):
        problems: list[str] = []
        times: list[str] = []
        second = system.spare("second-coordinator", "broker")
        run.reach(0.1)
        system.signal("coordinator", signal.SIGTERM)
        stopped_at = time.monotonic()
        wait_for("the second coordinator has the run", lambda: processes_below(second.pid), 30.0)
        run.go_on()
        _end_in_order(second, "coordinator", times, problems)
        for agent in AGENTS:
            spare = system.spare(f"spare-{agent}", "agents", agent)
            wait_for(
                f"the spare {agent} agent has a batch in hand",
                lambda agent=agent: system.in_hand(agent, f"spare-{agent}"),  # type: ignore[misc]
                60.0,
            )
            _end_in_order(spare, agent, times, problems)
        return run.judge(
            workplace.reference, stopped_at, remarks=(", ".join(times),), problems=tuple(problems)
        )


def _end_in_order(
    process: subprocess.Popen[bytes], kind: str, times: list[str], problems: list[str]
) -> None:
    began = time.monotonic()
    process.terminate()
    try:
        status = process.wait(_GRACE_S)
    except subprocess.TimeoutExpired:
        problems.append(f"the {kind} process was still there {_GRACE_S:g} s after SIGTERM")
        return
    times.append(f"{kind} ended after {time.monotonic() - began:.1f} s")
    if status:
        problems.append(f"the {kind} process ended with status {status} after SIGTERM")


@case(
    "sigterm-gateway",
    "SIGTERM to a gateway that is answering a search",
    "the search is answered, then exit 0; the same bytes, each query once",
)
def sigterm_gateway(workplace: Workplace, name: str) -> Outcome:
    with workplace.system(name) as system, WatchedRun.submit(system, workplace.task) as run:
        run.reach(0.2)
        port = free_port()
        spare = system.spare("spare-gateway", "gateway.cli", "gateway", "--port", str(port))
        url = f"http://127.0.0.1:{port}"
        wait_for("the spare gateway answers", lambda: _answers(url), 30.0)
        search = SearchInBackground(system, workplace, url=url)
        wait_for("the search is under way", lambda: search.is_under_way(system), 30.0)
        problems: list[str] = []
        times: list[str] = []
        _end_in_order(spare, "gateway", times, problems)
        if search.status() != 200:
            problems.append(f"the search was answered with {search.status()}")
        return run.judge(
            workplace.reference, None, remarks=(", ".join(times),), problems=tuple(problems)
        )


def _answers(url: str) -> bool:
    try:
        return httpx.get(f"{url}/livez", timeout=2.0).status_code == 200
    except httpx.TransportError:
        return False


@case(
    "roll-out",
    "agents and coordinator of the next schema version join, take over, and are taken back",
    "messages of either version are answered by who reads them; the same bytes, each query once",
)
def roll_out(workplace: Workplace, name: str) -> Outcome:
    with (
        workplace.system(name, call_ms=300.0) as system,
        WatchedRun.submit(system, workplace.task) as run,
    ):
        run.reach(0.1)
        newer = {
            agent: system.spare(f"newer-{agent}", "tests.faults.next_version", "agents", agent)
            for agent in AGENTS
        }
        for agent in AGENTS:
            wait_for(
                f"the newer {agent} agent works",
                lambda agent=agent: system.in_hand(agent, f"newer-{agent}"),  # type: ignore[misc]
                60.0,
            )
        coordinator = system.spare("newer-coordinator", "tests.faults.next_version", "broker")
        wait_for("it is ready", lambda: "Listening on" in system.log("newer-coordinator"), 30.0)
        system.signal("coordinator", signal.SIGTERM)
        wait_for("it has the run", lambda: processes_below(coordinator.pid), 30.0)
        rolled_at = time.monotonic()
        run.go_on()
        run.reach(min(0.9, (run.recorded + 30) / workplace.task.queries))
        newer_share = run.recorded
        coordinator.terminate()
        coordinator.wait(_GRACE_S)
        for agent in AGENTS:
            newer[agent].terminate()
            newer[agent].wait(_GRACE_S)
        left_to_newer = sum(system.log(f"{agent}-1").count("to newer workers") for agent in AGENTS)
        remarks = (
            f"rolled back after {newer_share} queries; {left_to_newer} times older agents left "
            "messages to newer ones",
        )
        problems = () if left_to_newer else ("no older agent ever met a newer message",)
        return run.judge(workplace.reference, rolled_at, remarks=remarks, problems=problems)


@case(
    "clock-jump",
    "the clock of agents and coordinator jumps an hour ahead, then an hour back",
)
def clock_jump(workplace: Workplace, name: str) -> Outcome:
    offset = workplace.root / f"{name}-offset"
    offset.unlink(missing_ok=True)
    given = {"FAULTS_CLOCK": str(offset)}
    clock = Path(__file__).parent / "clock"
    with (
        workplace.system(name, given=given, python_path=clock) as system,
        WatchedRun.submit(system, workplace.task) as run,
    ):
        run.reach(0.2)
        offset.write_text(str(_HOUR_S))
        jumped_at = time.monotonic()
        run.reach(0.5)
        offset.write_text(str(-_HOUR_S))
        outcome = run.judge(workplace.reference, jumped_at)
        offset.unlink()
        return outcome
