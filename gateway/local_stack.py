"""The whole system on one machine: which processes it has, and when each of them is ready."""

from __future__ import annotations

import shutil
import socket
import sys
import tempfile
import threading
from collections.abc import Callable, Mapping
from pathlib import Path
from types import TracebackType
from typing import get_args

from gateway.client import Client, GatewayError, GatewayUnreachableError
from gateway.supervisor import Service, ServiceStatus, Supervisor
from shared.contracts.skills import AgentName
from shared.settings import Settings

_READY_WITHIN_S = 300.0
_PROBE_TIMEOUT_S = 2.0
_LAST_WORDS_S = 2.0


class LocalStack:
    """Redis, gateway, coordinator and agents as supervised processes. Use as a context manager.

    Args:
        processes: processes per agent type.
        redis_url: a Redis that runs already; None = a private one.
        redis_folder: where the private Redis keeps its data; None = a temporary folder.
        gateway_port: None = a free one.
    """

    def __init__(
        self,
        settings: Settings,
        *,
        processes: int = 1,
        redis_url: str | None = None,
        redis_folder: Path | None = None,
        gateway_port: int | None = None,
    ) -> None:
        redis_port, free_port = _free_ports(2)
        self._temporary_folder: Path | None = None
        self.log_folder = settings.home / "logs"
        self.gateway_port = free_port if gateway_port is None else gateway_port
        self.gateway_url = f"http://127.0.0.1:{self.gateway_port}"
        self.redis_url = redis_url or f"redis://127.0.0.1:{redis_port}/0"
        self._client = Client(self.gateway_url, timeout_s=_PROBE_TIMEOUT_S)
        services = []
        if redis_url is None:
            if redis_folder is None:
                self._temporary_folder = redis_folder = Path(tempfile.mkdtemp(prefix="xr-redis-"))
            services.append(_redis_service(redis_folder, redis_port))
        services += [
            Service("gateway", _python("gateway.cli", "gateway"), self._gateway_answers, stage=1),
            Service("coordinator", _python("broker"), stage=2),
        ]
        for agent in get_args(AgentName):
            services += [
                Service(
                    f"{agent}-{number}",
                    _python("agents", agent),
                    lambda agent=agent: self._has_workers(agent, processes),  # type: ignore[misc]
                    environment={"XR_WORKER_NAME": f"{agent}-{number}"},
                    stage=2,
                )
                for number in range(1, processes + 1)
            ]
        self.supervisor = Supervisor(
            services,
            self.log_folder,
            grace_s=settings.grace_s + _LAST_WORDS_S,
            environment=self._environment(settings),
        )

    def __enter__(self) -> LocalStack:
        self.supervisor.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.supervisor.stop()
        self._client.close()
        if self._temporary_folder is not None:
            shutil.rmtree(self._temporary_folder, ignore_errors=True)

    def wait_ready(
        self,
        on_change: Callable[[list[ServiceStatus]], None] | None = None,
        stop: threading.Event | None = None,
    ) -> None:
        """Return when every service is ready, or `stop` is set. Raises: ServiceFailedError."""
        self.supervisor.wait_ready(_READY_WITHIN_S, on_change, stop)

    def _environment(self, settings: Settings) -> Mapping[str, str]:
        """The settings for the children: the caller's, with this stack's addresses."""
        own = {
            "XR_REDIS_URL": self.redis_url,
            "XR_GATEWAY_URL": self.gateway_url,
            "XR_GATEWAY_HOST": "127.0.0.1",
            "XR_GATEWAY_PORT": str(self.gateway_port),
            "XR_HEALTH_PORT": "0",  # one port cannot be that of all
            "XR_DRAIN_S": "0",  # nobody routes requests between several gateways here
        }
        fields = {
            f"XR_{name.upper()}": getattr(settings, name) for name in settings.__struct_fields__
        }
        return {name: str(value) for name, value in fields.items()} | own

    def _gateway_answers(self) -> bool:
        try:
            self._client.readiness()
        except (GatewayUnreachableError, GatewayError):
            return False
        return True

    def _has_workers(self, agent: str, wanted: int) -> bool:
        """Whether so many workers of an agent have passed their warm-up and take work."""
        try:
            return self._client.readiness().agents.get(agent, 0) >= wanted
        except (GatewayUnreachableError, GatewayError):
            return False


def _redis_service(folder: Path, port: int) -> Service:
    def answers() -> bool:
        with socket.create_connection(("127.0.0.1", port), timeout=_PROBE_TIMEOUT_S) as connection:
            connection.sendall(b"PING\r\n")
            return connection.recv(5) == b"+PONG"

    return Service("redis", _python("gateway.redis_service", str(folder), str(port)), answers)


def _python(module: str, *arguments: str) -> list[str]:
    return [sys.executable, "-m", module, *arguments]


def _free_ports(count: int) -> list[int]:
    """So many different free ports of 127.0.0.1; all are held until the last is known."""
    sockets = [socket.socket() for _ in range(count)]
    try:
        for probe in sockets:
            probe.bind(("127.0.0.1", 0))
        return [probe.getsockname()[1] for probe in sockets]
    finally:
        for probe in sockets:
            probe.close()
