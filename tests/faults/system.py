"""The real system as a user starts it, `xr up`, seen and disturbed from outside."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from types import TracebackType
from typing import IO, Self, TypeVar

from redis import Redis

from gateway.client import Client, GatewayError, GatewayUnreachableError
from shared.bus import keys
from shared.redis_server import PrivateRedis
from shared.settings import Settings, load_settings
from tests.faults.processes import Process, environment_of, processes_below, send

ROOT = Path(__file__).parents[2]
START_TIMEOUT_S = 120.0
_STOP_TIMEOUT_S = 30.0
_POLL_S = 0.02

Found = TypeVar("Found")


class FaultSuiteError(Exception):
    """The system did not do what a case needs to go on."""


def wait_for(
    what: str, found: Callable[[], Found | None], timeout_s: float, poll_s: float = _POLL_S
) -> Found:
    """Poll until `found` gives something. Raises: FaultSuiteError: not within `timeout_s`."""
    end = time.monotonic() + timeout_s
    while not (result := found()):
        if time.monotonic() > end:
            raise FaultSuiteError(f"{what}: not within {timeout_s:g} s")
        time.sleep(poll_s)
    return result


class System:
    """`xr up` in a process of its own; a context manager starts and stops it.

    Args:
        home: XR_HOME; also takes the log of `xr up` itself.
        given: further XR_* variables (XR_PROFILE, XR_DATA_ROOT and those of the case).
        processes: of each agent.
        redis: a Redis the case disturbs by itself; None = the one `xr up` starts.
        python_path: a folder whose modules every process of the system finds first.
    """

    def __init__(
        self,
        home: Path,
        given: Mapping[str, str],
        *,
        processes: int = 1,
        redis: PrivateRedis | None = None,
        python_path: Path | None = None,
    ) -> None:
        self.home = home
        self.redis_server = redis
        self._processes = processes
        self._port = free_port()
        plain = {name: value for name, value in os.environ.items() if not name.startswith("XR_")}
        paths = [str(path) for path in (python_path, ROOT) if path is not None]
        self.environment = {
            **plain,
            "PYTHONPATH": os.pathsep.join(paths),
            "XR_HOME": str(home),
            "XR_GATEWAY_PORT": str(self._port),
            "XR_GATEWAY_URL": f"http://127.0.0.1:{self._port}",
            **({"XR_REDIS_URL": redis.url} if redis is not None else {}),
            **given,
        }
        self.settings: Settings = load_settings(
            {name: value for name, value in self.environment.items() if name.startswith("XR_")}
        )
        self.client = Client(self.settings.gateway_url)
        self._up: subprocess.Popen[bytes] | None = None
        self._log: IO[bytes] | None = None
        self._spares: list[subprocess.Popen[bytes]] = []
        self._redis_url = redis.url if redis is not None else ""

    def __enter__(self) -> Self:
        try:
            self.start()
        except BaseException:
            self.stop()
            raise
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.stop()

    def start(self) -> None:
        """Returns once every agent has the workers it should have. A second start is a restart."""
        self.home.mkdir(parents=True, exist_ok=True)
        self._log = (self.home / "up.log").open("ab")
        self._up = subprocess.Popen(
            [sys.executable, "-m", "gateway.cli", "up", "--processes", str(self._processes)],
            cwd=ROOT,
            env=self.environment,
            stdin=subprocess.DEVNULL,
            stdout=self._log,
            stderr=self._log,
        )
        wait_for("the system is ready", self._ready, START_TIMEOUT_S, poll_s=0.2)
        if self.redis_server is None:
            self._redis_url = environment_of(self.pid("gateway"))["XR_REDIS_URL"]

    def stop(self) -> None:
        """An orderly end of `xr up` and of everything `spare` has started."""
        for spare in self._spares:
            if spare.poll() is None:
                spare.kill()
                spare.wait()
        if self._up is not None and self._up.poll() is None:
            self._up.terminate()
            try:
                self._up.wait(_STOP_TIMEOUT_S)
            except subprocess.TimeoutExpired:
                self.crash()
        self.client.close()
        if self._log is not None:
            self._log.close()

    def crash(self) -> None:
        """The machine loses power: every process ends at once, `xr up` and Redis too."""
        if self._up is None:
            return
        below = processes_below(self._up.pid)
        send(self._up.pid, signal.SIGKILL)
        for process in below:
            send(process.pid, signal.SIGKILL)
        self._up.wait()
        wait_for(
            "everything is dead",
            lambda: not any(Path(f"/proc/{process.pid}").exists() for process in below),
            10.0,
        )

    def spare(
        self, name: str, *arguments: str, given: Mapping[str, str] | None = None
    ) -> subprocess.Popen[bytes]:
        """One more process of this system, `python -m <arguments>`, that the caller may end."""
        environment = {**self.environment, "XR_REDIS_URL": self.redis_url, **(given or {})}
        with (self.home / f"{name}.log").open("ab") as log:
            process = subprocess.Popen(
                [sys.executable, "-m", *arguments],
                cwd=ROOT,
                env={**environment, "XR_WORKER_NAME": name},
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
            )
        self._spares.append(process)
        return process

    @property
    def redis_url(self) -> str:
        return self._redis_url

    def redis(self) -> Redis:
        """A plain client, for looking."""
        return Redis.from_url(self.redis_url, socket_timeout=5.0)

    def processes(self) -> list[Process]:
        """What `xr up` has running now."""
        return [] if self._up is None else processes_below(self._up.pid)

    def pid(self, kind: str) -> int:
        """The (first) process of a kind, waited for."""
        return wait_for(f"a {kind} process runs", lambda: self.pids(kind), 30.0)[0]

    def pids(self, kind: str) -> list[int]:
        return [process.pid for process in self.processes() if process.kind == kind]

    def signal(self, kind: str, number: signal.Signals = signal.SIGKILL) -> int:
        """Send a signal to the first process of a kind; returns its id."""
        pid = self.pid(kind)
        send(pid, number)
        return pid

    def in_hand(self, agent: str, worker: str = "") -> int:
        """Messages delivered to an agent's workers (or those of one name) and not yet answered."""
        with self.redis() as redis:
            held = 0
            for stream in keys.request_streams(agent):
                for consumer in redis.xinfo_consumers(stream, keys.GROUP):
                    if consumer["name"].decode().startswith(worker):
                        held += consumer["pending"]
        return held

    def queued(self, agent: str) -> int:
        """Messages in an agent's streams: those that wait and those in hand."""
        with self.redis() as redis:
            return sum(int(redis.xlen(stream)) for stream in keys.request_streams(agent))

    def log(self, name: str) -> str:
        """What a service or a spare process has written so far."""
        for path in (self.home / "logs" / f"{name}.log", self.home / f"{name}.log"):
            if path.is_file():
                return path.read_text(errors="replace")
        return ""

    def _ready(self) -> bool:
        if self._up is not None and self._up.poll() is not None:
            raise FaultSuiteError(f"xr up has ended:\n{self.log('up')[-2000:]}")
        try:
            readiness = self.client.readiness()
        except (GatewayUnreachableError, GatewayError):
            return False
        return readiness.ready and all(
            count >= self._processes for count in readiness.agents.values()
        )


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port
