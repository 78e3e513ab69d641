"""The real system as processes of its own: Redis, the coordinator and three agents."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import IO, Any, Self, get_args

from broker.agents_roster import wait_for_agents
from shared.bus.client import BusClient
from shared.bus.connection import connect
from shared.contracts.skills import AgentName
from shared.redis_server import PrivateRedis
from shared.settings import Settings, load_settings
from tests.benchmarks.workplace import DIMENSIONS

ROOT = Path(__file__).resolve().parents[2]
AGENTS: tuple[AgentName, ...] = get_args(AgentName)

_START_TIMEOUT_S = 120.0
_STOP_TIMEOUT_S = 20.0
_LOG_SHOWN = 2000
_MEMORY_FOLDER = Path("/dev/shm")
"""Meters on a disk would cost the metered processes a page fault whenever they are flushed."""
_ROLES = (
    "captioner", "imaginer_text", "imaginer_image", "proposer", "evaluator_image",
    "evaluator_caption",
)  # fmt: skip


class Stack:
    """Everything but the gateway, which takes no part in a query; use as a context manager.

    Attributes:
        settings: those of every process; what `given` doesn't name has its default.
        meters: the folder of the engines' meters.
    """

    def __init__(self, folder: Path, given: Mapping[str, str]) -> None:
        self._folder = folder
        self._given = given
        self._redis = PrivateRedis(folder / "redis")
        self._processes: dict[str, subprocess.Popen[bytes]] = {}
        self._logs: list[IO[bytes]] = []
        self._memory = tempfile.TemporaryDirectory(
            prefix="xr-meters-", dir=_MEMORY_FOLDER if _MEMORY_FOLDER.is_dir() else None
        )
        self.meters = Path(self._memory.name)
        self.settings: Settings

    def __enter__(self) -> Self:
        profile = self._folder / "zero-cost.toml"
        profile.write_text(_profile(self.meters))
        self._redis.start()
        variables = {
            "XR_REDIS_URL": self._redis.url,
            "XR_HOME": str(self._folder / "home"),
            "XR_DATA_ROOT": str(self._folder / "data"),
            "XR_PROFILE": str(profile),
            **self._given,
        }
        self.settings = load_settings(variables)
        plain = {name: value for name, value in os.environ.items() if not name.startswith("XR_")}
        try:
            for agent in AGENTS:
                self._start(agent, ["-m", "agents", agent], {**plain, **variables})
            self._start("coordinator", ["-m", "broker"], {**plain, **variables})
        except BaseException:
            self._stop()
            raise
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._stop()

    @property
    def redis_folder(self) -> Path:
        return self._redis.folder

    def process_ids(self) -> dict[str, int]:
        """Process kind -> process id; the coordinator's is that of the RQ worker, which forks."""
        redis = self._redis.pid
        if redis is None:
            raise RuntimeError(f"Redis has ended; see {self._redis.log_path}")
        return {"redis": redis} | {name: child.pid for name, child in self._processes.items()}

    def check(self) -> None:
        """Raises: RuntimeError: a process has ended; names its log."""
        for name, child in self._processes.items():
            if child.poll() is not None:
                raise RuntimeError(f"{name} has ended:\n{self.end_of_log(name)}")

    def end_of_log(self, name: str) -> str:
        """The last lines a process has written."""
        return (self._folder / f"{name}.log").read_text(errors="replace")[-_LOG_SHOWN:]

    def identities(self) -> dict[str, dict[str, Any]]:
        """What each agent serves, once all are alive."""
        return asyncio.run(asyncio.wait_for(self._identities(), _START_TIMEOUT_S))

    async def _identities(self) -> dict[str, dict[str, Any]]:
        redis = connect(self.settings.redis_url)
        try:
            bus = BusClient(redis, "nobody")
            return await wait_for_agents(bus.live_agents, AGENTS, lambda _: self.check())
        finally:
            await redis.aclose()

    def _start(self, name: str, arguments: list[str], environment: dict[str, str]) -> None:
        log = (self._folder / f"{name}.log").open("wb")
        self._logs.append(log)
        self._processes[name] = subprocess.Popen(
            [sys.executable, *arguments], cwd=ROOT, env=environment, stdout=log, stderr=log
        )

    def _stop(self) -> None:
        for child in self._processes.values():
            child.terminate()
        for child in self._processes.values():
            try:
                child.wait(_STOP_TIMEOUT_S)
            except subprocess.TimeoutExpired:
                child.kill()
                child.wait()
        self._redis.stop()
        for log in self._logs:
            log.close()
        self._memory.cleanup()


def temporary_folder() -> tempfile.TemporaryDirectory[str]:
    """A folder on a disk: on one in memory, nothing written would count as such."""
    return tempfile.TemporaryDirectory(prefix="xr-overhead-", ignore_cleanup_errors=True)


def _profile(meters: Path) -> str:
    roles = "\n".join(f'{role} = "language"' for role in _ROLES)
    return f"""\
[models.language]
backend = "tests.benchmarks.engines:language_model"
options = {{ meters = "{meters}" }}

[models.clip]
backend = "tests.benchmarks.engines:embedding_model"
options = {{ meters = "{meters}", dimensions = {DIMENSIONS} }}

[roles]
{roles}
clip = "clip"
"""
