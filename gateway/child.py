"""Runs one command that cannot outlive its starter: `python -m gateway.child GRACE_S PARENT ...`.

A supervisor that is killed (kill -9, out of memory) cannot stop its children, and a child's own
children (the job processes of an RQ worker) are known to nobody else. So every service runs under
this small keeper: the kernel tells it when its parent is gone, and hands it the orphans below it,
and it takes all of them with it.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import FrameType

_PR_SET_PDEATHSIG = 1
_PR_SET_CHILD_SUBREAPER = 36
_POLL_S = 0.05


def _prctl(option: int, value: int) -> None:
    """Linux prctl; elsewhere nothing happens and only an orderly stop cleans up."""
    if sys.platform == "linux":
        ctypes.CDLL(None, use_errno=True).prctl(option, value, 0, 0, 0)


@dataclass(frozen=True)
class _Process:
    pid: int
    parent: int
    session: int


def _living_processes() -> list[_Process]:
    """All processes but zombies; empty where there is no /proc."""
    living = []
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            # the command name in parentheses may itself hold spaces and parentheses
            state, parent, _, session = stat.read_text().rpartition(")")[2].split()[:4]
        except OSError:
            continue  # it ended while we looked
        if state not in "ZX":
            living.append(_Process(int(stat.parent.name), int(parent), int(session)))
    return living


def processes_of_session(session_id: int) -> list[int]:
    """Ids of all living processes of a session, zombies left out; empty where there is no /proc."""
    return [process.pid for process in _living_processes() if process.session == session_id]


def _descendants(ancestor: int) -> list[int]:
    """Everything started below a process. Orphans count too, as it is a child subreaper."""
    children: dict[int, list[int]] = {}
    for process in _living_processes():
        children.setdefault(process.parent, []).append(process.pid)
    found: list[int] = []
    frontier = [ancestor]
    while frontier:
        below = children.get(frontier.pop(), [])
        found += below
        frontier += below
    return found


def _kill_all(find: Callable[[], list[int]]) -> None:
    """SIGKILL until `find` finds nothing: a process may fork while the list is read."""
    for _ in range(50):
        found = find()
        if not found:
            return
        for pid in found:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        time.sleep(_POLL_S)


def kill_session(session_id: int) -> None:
    """SIGKILL to every process of a session (not the caller's own), until none is left."""
    _kill_all(lambda: processes_of_session(session_id))


def keep(command: list[str], grace_s: float, parent: int) -> int:
    """Run `command` in a session of its own; returns its exit status (128 + signal when killed).

    SIGTERM (from the supervisor, or from the kernel when `parent` is gone) is passed on. When the
    command has ended, or `grace_s` seconds later, everything it started is killed, also what moved
    to a session of its own.
    """
    stop_requested_at: list[float] = []

    def request_stop(_signal: int, _frame: FrameType | None) -> None:
        stop_requested_at.append(time.monotonic())

    signal.signal(signal.SIGTERM, request_stop)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # a terminal's Ctrl-C is the supervisor's business
    _prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)
    _prctl(_PR_SET_CHILD_SUBREAPER, 1)
    if os.getppid() != parent:
        return 128 + signal.SIGTERM  # the parent died before the kernel was told to watch it
    process = subprocess.Popen(  # noqa: S603  (the supervisor's own command)
        command, process_group=0, preexec_fn=_restore_signals_and_die_with_keeper
    )
    passed_on = False
    while process.poll() is None:
        if stop_requested_at and not passed_on:
            process.terminate()
            passed_on = True
        if stop_requested_at and time.monotonic() - stop_requested_at[0] > grace_s:
            break
        time.sleep(_POLL_S)
    _kill_all(lambda: _descendants(os.getpid()))
    status = process.wait()
    return status if status >= 0 else 128 - status


def _restore_signals_and_die_with_keeper() -> None:
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    _prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)


if __name__ == "__main__":
    sys.exit(keep(sys.argv[3:], grace_s=float(sys.argv[1]), parent=int(sys.argv[2])))
