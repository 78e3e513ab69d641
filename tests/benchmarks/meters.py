"""Reads what processes have cost: CPU and memory from /proc, and CPU of single calls within one."""

from __future__ import annotations

import contextlib
import mmap
import os
import struct
import time
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

_TICKS_PER_S = os.sysconf("SC_CLK_TCK")
_METER = struct.Struct("<dq")  # CPU seconds, calls


class ProcessCpu(NamedTuple):
    """CPU seconds, user and system: of the process, and of children it has waited for."""

    own_s: float
    children_s: float


def cpu_of(pid: int) -> ProcessCpu:
    """All threads, those that have ended too. Raises: FileNotFoundError: no such process."""
    fields = _stat(pid)
    user, system, children_user, children_system = (int(field) for field in fields[11:15])
    return ProcessCpu(
        (user + system) / _TICKS_PER_S, (children_user + children_system) / _TICKS_PER_S
    )


def children_of(pid: int) -> list[int]:
    """Live children of a process."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            with contextlib.suppress(OSError):  # it has ended meanwhile
                if int(_stat(int(entry.name))[1]) == pid:
                    found.append(int(entry.name))
    return found


def is_alive(pid: int) -> bool:
    """Whether the process runs, or has ended and its parent hasn't yet waited for it."""
    return Path(f"/proc/{pid}").exists()


def peak_memory_mb(pid: int) -> float:
    """The most resident memory the process ever had, in 10^6 bytes; 0 when it is gone."""
    with contextlib.suppress(OSError):
        for line in Path(f"/proc/{pid}/status").read_text().splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024 / 1e6
    return 0.0


def anonymous_memory_mb(pid: int) -> float:
    """The resident memory that is no file's, now, in 10^6 bytes; 0 when the process is gone."""
    with contextlib.suppress(OSError):
        for line in Path(f"/proc/{pid}/status").read_text().splitlines():
            if line.startswith("RssAnon:"):
                return int(line.split()[1]) * 1024 / 1e6
    return 0.0


def disk_bytes(pid: int) -> int | None:
    """Bytes the process caused to be written to a disk (whole pages); None when not readable."""
    with contextlib.suppress(OSError):
        for line in Path(f"/proc/{pid}/io").read_text().splitlines():
            if line.startswith("write_bytes:"):
                return int(line.split()[1])
    return None


def folder_bytes(folder: Path) -> int:
    """Bytes of all files below a folder."""
    total = 0
    for path in folder.rglob("*"):
        with contextlib.suppress(FileNotFoundError):
            total += path.stat().st_size if path.is_file() else 0
    return total


def _stat(pid: int) -> list[str]:
    """The fields of /proc/PID/stat behind the name, which may hold blanks: [0] is the state."""
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()


class CallMeter:
    """CPU seconds of one kind of call within a process, in a file that another one reads."""

    def __init__(self, folder: Path, kind: str) -> None:
        path = folder / f"{kind}-{os.getpid()}.meter"
        path.write_bytes(_METER.pack(0.0, 0))
        with path.open("r+b") as file:
            self._shared = mmap.mmap(file.fileno(), _METER.size)
        self._cpu_s, self._calls = 0.0, 0

    @contextlib.contextmanager
    def running(self) -> Iterator[None]:
        """The CPU time of this thread within the block counts."""
        began_s = time.thread_time()
        try:
            yield
        finally:
            self._cpu_s += time.thread_time() - began_s
            self._calls += 1
            _METER.pack_into(self._shared, 0, self._cpu_s, self._calls)


def read_call_meters(folder: Path, kind: str) -> float:
    """CPU seconds of all processes' calls of one kind so far."""
    paths = folder.glob(f"{kind}-*.meter")
    return sum(float(_METER.unpack(path.read_bytes())[0]) for path in paths)
