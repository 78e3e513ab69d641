"""Starts one machine's services as processes, restarts what crashes, and leaves none behind."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Literal

from gateway.child import kill_session
from shared.errors import PermanentError

SINGLE_THREADED = {
    "OMP_NUM_THREADS": "1",
    "OPENBLAS_NUM_THREADS": "1",
    "MKL_NUM_THREADS": "1",
    "NUMEXPR_NUM_THREADS": "1",
    "RAYON_NUM_THREADS": "1",
    "TOKENIZERS_PARALLELISM": "false",
    "PYTHONUNBUFFERED": "1",
}
"""Many processes share the cores, so no process may take them all for itself."""

_CRASHES_AT_START = 4  # so often, and nobody waits for the service any longer

State = Literal["waiting", "starting", "ready", "restarting", "stopped", "failed"]


@dataclass(frozen=True)
class Backoff:
    """Pauses before restarts: first_s, doubled up to max_s; forgotten after reset_s alive."""

    first_s: float = 0.5
    max_s: float = 10.0
    reset_s: float = 30.0

    def pause_s(self, crashes: int) -> float:
        """Pause before the restart after the given number of crashes in a row (at least 1)."""
        return float(min(self.first_s * 2 ** min(crashes - 1, 30), self.max_s))


@dataclass(frozen=True)
class Service:
    """One process to keep running.

    Attributes:
        name: also the name of its log file.
        command: program and arguments.
        ready: whether it does its work now; asked repeatedly, may raise OSError for "not yet".
        environment: variables on top of the supervisor's own.
        stage: a stage starts when every service of the lower stages is ready.
        gives_up_on: exit statuses that a restart cannot mend (2: usage or configuration), until
            the service has been ready once: what it found right then, it will find right again.
    """

    name: str
    command: Sequence[str]
    ready: Callable[[], bool] = lambda: True
    environment: Mapping[str, str] = field(default_factory=dict)
    stage: int = 0
    gives_up_on: frozenset[int] = frozenset({2})


@dataclass(frozen=True)
class ServiceStatus:
    """How one service is: its state, the process id of its keeper, and how often it crashed.

    A service that was ready once is restarted whenever it ends, however often that is.
    """

    name: str
    state: State
    pid: int | None
    crashes: int
    last_exit: int | None
    log: Path
    was_ready: bool = False


class ServiceFailedError(PermanentError):
    """A service cannot be brought up; the message holds the end of its log.

    Attributes:
        misconfigured: it said itself that a restart cannot mend it.
    """

    def __init__(self, message: str, misconfigured: bool) -> None:
        super().__init__(message)
        self.misconfigured = misconfigured


class _Keeper:
    """One service's current process. Only the supervisor's thread starts and reaps it."""

    def __init__(self, service: Service, log: Path) -> None:
        self.service = service
        self.log = log
        self.process: subprocess.Popen[bytes] | None = None
        self.state: State = "waiting"
        self.crashes = 0
        self.crashes_in_a_row = 0
        self.last_exit: int | None = None
        self.was_ready = False
        self.started_at = 0.0
        self.restart_at = 0.0

    def start(self, environment: Mapping[str, str], grace_s: float) -> None:
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(  # noqa: S603  (commands are ours)
                [
                    sys.executable,
                    "-m",
                    "gateway.child",
                    str(grace_s),
                    str(os.getpid()),
                    *self.service.command,
                ],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                env={**environment, **self.service.environment},
                start_new_session=True,
            )
        self.started_at = time.monotonic()
        self.state = "starting"

    def status(self) -> ServiceStatus:
        alive = self.process is not None and self.process.returncode is None
        pid = self.process.pid if self.process is not None and alive else None
        return ServiceStatus(
            self.service.name,
            self.state,
            pid,
            self.crashes,
            self.last_exit,
            self.log,
            self.was_ready,
        )


class Supervisor:
    """Keeps services running from `start()` to `stop()`; a context manager does both.

    Each service runs in a session of its own under `gateway.child`, so that stopping it stops
    everything it started, and the supervisor's own death (kill -9 too) stops it as well.
    """

    def __init__(
        self,
        services: Sequence[Service],
        log_folder: Path,
        *,
        backoff: Backoff | None = None,
        grace_s: float = 5.0,
        poll_s: float = 0.1,
        environment: Mapping[str, str] | None = None,
    ) -> None:
        self._keepers = [
            _Keeper(service, log_folder / f"{service.name}.log") for service in services
        ]
        self._log_folder = log_folder
        self._backoff = backoff or Backoff()
        self._grace_s = grace_s
        self._poll_s = poll_s
        self._environment = {**os.environ, **SINGLE_THREADED, **(environment or {})}
        self._stop_requested = threading.Event()
        self._changed = threading.Condition()
        self._thread: threading.Thread | None = None

    def __enter__(self) -> Supervisor:
        self.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.stop()

    def start(self) -> None:
        """Begin starting the services, stage by stage, in the background."""
        self._log_folder.mkdir(parents=True, exist_ok=True)
        # The kernel ties a child to the *thread* that started it: one thread starts them all, and
        # it lives until the last of them is gone.
        self._thread = threading.Thread(target=self._supervise, name="supervisor", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """Stop every service: SIGTERM, then SIGKILL after the grace time. Idempotent."""
        self._stop_requested.set()
        if self._thread is not None:
            self._thread.join()
            self._thread = None

    def statuses(self) -> list[ServiceStatus]:
        """How every service is now, in the order given."""
        return [keeper.status() for keeper in self._keepers]

    def wait_ready(
        self,
        timeout_s: float,
        on_change: Callable[[list[ServiceStatus]], None] | None = None,
        stop: threading.Event | None = None,
    ) -> None:
        """Return when every service is ready, or `stop` is set meanwhile.

        Raises: ServiceFailedError: a service gave up, or the time is over; shows its log's end.
        """
        deadline = time.monotonic() + timeout_s
        while True:
            statuses = self.statuses()
            if on_change is not None:
                on_change(statuses)
            failed = [
                status
                for status in statuses
                if status.state == "failed"
                or (status.crashes >= _CRASHES_AT_START and not status.was_ready)
            ]
            if failed:
                raise ServiceFailedError(_account(failed[0]), failed[0].state == "failed")
            late = [status for status in statuses if status.state != "ready"]
            if not late or (stop is not None and stop.is_set()):
                return
            if time.monotonic() > deadline:
                account = f"not ready after {timeout_s:g} s: {_account(late[0])}"
                raise ServiceFailedError(account, misconfigured=False)
            with self._changed:
                self._changed.wait(self._poll_s)

    def _supervise(self) -> None:
        try:
            while not self._stop_requested.is_set():
                for keeper in self._keepers:
                    self._attend(keeper)
                with self._changed:
                    self._changed.notify_all()
                self._stop_requested.wait(self._poll_s)
        finally:
            self._stop_all()

    def _attend(self, keeper: _Keeper) -> None:
        """One look at one service: start, notice readiness, notice a crash, restart."""
        now = time.monotonic()
        due = (keeper.state == "restarting" and now >= keeper.restart_at) or (
            keeper.state == "waiting" and self._lower_stages_ready(keeper.service.stage)
        )
        if due:
            keeper.start(self._environment, self._grace_s)
        elif keeper.state in ("starting", "ready"):
            if keeper.process is None:
                return
            status = keeper.process.poll()
            if status is not None:
                self._record_crash(keeper, status, now)
            elif keeper.state == "starting" and _is_ready(keeper.service):
                keeper.state, keeper.was_ready = "ready", True

    def _record_crash(self, keeper: _Keeper, status: int, now: float) -> None:
        if keeper.process is not None:
            kill_session(keeper.process.pid)  # the keeper itself may have been killed
        if now - keeper.started_at >= self._backoff.reset_s:
            keeper.crashes_in_a_row = 0
        keeper.last_exit = status
        keeper.crashes += 1
        keeper.crashes_in_a_row += 1
        if status in keeper.service.gives_up_on and not keeper.was_ready:
            keeper.state = "failed"
            return
        keeper.restart_at = now + self._backoff.pause_s(keeper.crashes_in_a_row)
        keeper.state = "restarting"

    def _lower_stages_ready(self, stage: int) -> bool:
        return all(
            keeper.state == "ready" for keeper in self._keepers if keeper.service.stage < stage
        )

    def _stop_all(self) -> None:
        """Highest stage first, so that services can say goodbye to the ones they depend on."""
        for stage in sorted({keeper.service.stage for keeper in self._keepers}, reverse=True):
            keepers = [keeper for keeper in self._keepers if keeper.service.stage == stage]
            for keeper in keepers:
                if keeper.process is not None:
                    with contextlib.suppress(ProcessLookupError):
                        keeper.process.send_signal(signal.SIGTERM)
            deadline = time.monotonic() + self._grace_s + 2.0  # the keeper itself kills at grace_s
            for keeper in keepers:
                if keeper.process is None:
                    continue
                try:
                    keeper.process.wait(max(0.0, deadline - time.monotonic()))
                except subprocess.TimeoutExpired:
                    keeper.process.kill()
                    keeper.process.wait()
                kill_session(keeper.process.pid)
                keeper.state = "stopped"


def _is_ready(service: Service) -> bool:
    try:
        return service.ready()
    except OSError:
        return False


def _account(status: ServiceStatus) -> str:
    """One service's trouble in words, with the last lines of its log."""
    happened = {
        "waiting": "was not started, a service it depends on is not ready",
        "starting": "is starting",
    }.get(status.state, f"ended with status {status.last_exit} ({status.crashes} times)")
    lines: list[str] = []
    if status.log.is_file():
        lines = status.log.read_text(errors="replace").splitlines()[-8:]
    end = "".join(f"\n    {line}" for line in lines)
    return f"{status.name} {happened}; its log {status.log} ends with:{end or ' nothing'}"
