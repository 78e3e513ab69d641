"""Which of this system's processes run below one process, told by their command lines."""

from __future__ import annotations

import contextlib
import os
import signal
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

KINDS = (
    "redis", "gateway", "coordinator", "horse", "imagination", "similarity", "question",
)  # fmt: skip
AGENTS = ("imagination", "similarity", "question")


@dataclass(frozen=True)
class Process:
    """One living process. `kind` is one of KINDS, or "" (a keeper, a helper)."""

    pid: int
    parent: int
    kind: str


def processes_below(ancestor: int) -> list[Process]:
    """Everything a process has started, directly or not; parents before children."""
    children: dict[int, list[tuple[int, list[str]]]] = {}
    for pid, parent, command in _living():
        children.setdefault(parent, []).append((pid, command))
    found: list[Process] = []
    frontier = [(ancestor, "")]
    while frontier:
        parent, parents_kind = frontier.pop()
        for pid, command in sorted(children.get(parent, [])):
            kind = _kind(command)
            if kind == parents_kind == "coordinator":
                kind = "horse"  # forked by the RQ worker: the same command line
            found.append(Process(pid, parent, kind))
            frontier.append((pid, kind))
    return found


def environment_of(pid: int) -> dict[str, str]:
    """The variables a process was started with. Raises: OSError: it is gone."""
    entries = Path(f"/proc/{pid}/environ").read_bytes().split(b"\0")
    return {
        name.decode(): value.decode(errors="replace")
        for name, _, value in (entry.partition(b"=") for entry in entries if entry)
    }


def resident_mb(pid: int) -> float:
    """Resident memory in 10^6 bytes; 0 when the process is gone."""
    with contextlib.suppress(OSError):
        pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
        return pages * os.sysconf("SC_PAGE_SIZE") / 1e6
    return 0.0


def send(pid: int, number: signal.Signals) -> None:
    """A signal; nothing happens when the process is gone."""
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, number)


def _living() -> Iterator[tuple[int, int, list[str]]]:
    """(process id, parent, command line) of everything that runs, zombies left out."""
    for entry in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):  # it has ended meanwhile
            state, parent = (entry / "stat").read_text().rpartition(")")[2].split()[:2]
            if state not in "ZX":
                command = (entry / "cmdline").read_bytes().decode(errors="replace").split("\0")
                yield int(entry.name), int(parent), command


def _kind(command: list[str]) -> str:
    if "redis-server" in command[0]:  # it writes its address behind its name
        return "redis"
    words = command[1:]
    if words[:2] == ["-m", "broker"]:
        return "coordinator"
    if words[:3] == ["-m", "gateway.cli", "gateway"]:
        return "gateway"
    if words[:2] == ["-m", "agents"] and words[2] in AGENTS:
        return words[2]
    return ""
