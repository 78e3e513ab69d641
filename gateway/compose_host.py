"""The containers of one compose project on this host, through the Docker SDK: count, add, drain."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from shared.errors import ConfigurationError, PermanentError, TransientError

if TYPE_CHECKING:
    from docker.models.containers import Container

    import docker

PROJECT, SERVICE = "com.docker.compose.project", "com.docker.compose.service"
NUMBER, ONE_OFF = "com.docker.compose.container-number", "com.docker.compose.oneoff"
_DEFAULT_SOCKET = "unix:///var/run/docker.sock"
_STOP_WITHIN_S = 60
_BEYOND_S = 15
"""Docker answers a stop after the grace time, plus what it takes it to kill."""
MOST_REPLICAS = 64


class NoDockerError(TransientError):
    """Docker cannot be asked; the message says why and what to do."""


@dataclass(frozen=True)
class ServiceReplicas:
    """One service of the project.

    Attributes:
        agents: the agents it serves; empty for other services.
        running, healthy, stopped: containers; a healthy one is running too.
    """

    service: str
    agents: tuple[str, ...]
    running: int
    healthy: int
    stopped: int


class ComposeHost:
    """Use as `with ComposeHost(project) as host`. Raises NoDockerError when it cannot be asked."""

    def __init__(self, project: str, client: docker.DockerClient | None = None) -> None:
        self._project = project
        self._client = client or _connect()

    def __enter__(self) -> ComposeHost:
        return self

    def __exit__(self, *_: object) -> None:
        self._client.close()

    def services(self) -> list[ServiceReplicas]:
        """Every service that has a container, running or not, in the order of their names."""
        by_service: dict[str, list[Container]] = {}
        for container in self._containers():
            by_service.setdefault(container.labels[SERVICE], []).append(container)
        return [
            ServiceReplicas(
                service,
                _agents_of(containers[0]),
                running=sum(_is_running(one) for one in containers),
                healthy=sum(_is_running(one) and _is_healthy(one) for one in containers),
                stopped=sum(not _is_running(one) for one in containers),
            )
            for service, containers in sorted(by_service.items())
        ]

    def service_of(self, name: str) -> str:
        """`name` if it is a service; else the one service of the agent of that name.

        Raises: ConfigurationError: there is none, or several.
        """
        services = self.services()
        if name in {one.service for one in services}:
            return name
        serving = [one.service for one in services if name in one.agents]
        if len(serving) == 1:
            return serving[0]
        known = ", ".join(one.service for one in services) or "none"
        which = f"{name} is served by {', '.join(serving)}" if serving else f"no service {name!r}"
        raise ConfigurationError(
            f"{which}; project {self._project!r} has: {known}. Name a service"
            " (`docker compose up` starts them; --project names another project)"
        )

    def scale(self, service: str, replicas: int, tell: Callable[[str], None]) -> None:
        """Bring a service to so many running containers; each that goes finishes its batch first.

        The last container is stopped, not removed, so that it can be started again from zero.

        Raises: ConfigurationError: it cannot be scaled. PermanentError: Docker refuses.
        """
        containers = self._containers(service)
        if not containers:
            raise ConfigurationError(
                f"service {service!r} has no container to copy: start it with `docker compose up`"
            )
        if not 0 <= replicas <= MOST_REPLICAS:
            raise ConfigurationError(f"{service}={replicas}: 0 to {MOST_REPLICAS} replicas")
        if containers[0].attrs["HostConfig"].get("PortBindings") and replicas > 1:
            raise ConfigurationError(f"{service} holds a port of this host: it cannot be scaled")
        running = [one for one in containers if _is_running(one)]
        stopped = [one for one in containers if not _is_running(one)]
        try:
            for container in stopped[: max(0, replicas - len(running))]:
                tell(f"starting {container.name}")
                container.start()
                running.append(container)
            while len(running) < replicas:
                container = self._copy(running or containers, service)
                tell(f"starting {container.name}")
                container.start()
                running.append(container)
            # those with the highest numbers, as Compose does
            for container in running[replicas:][::-1]:
                self._drain(container, tell)
                if replicas or _number(container) > 1:
                    container.remove()
        except _docker_errors() as error:
            raise PermanentError(f"Docker: {error}") from error

    def _drain(self, container: Container, tell: Callable[[str], None]) -> None:
        grace_s = container.attrs["Config"].get("StopTimeout") or _STOP_WITHIN_S
        tell(f"draining {container.name} (up to {grace_s} s)")
        self._client.api.timeout = grace_s + _BEYOND_S
        container.stop(timeout=grace_s)

    def _copy(self, siblings: Sequence[Container], service: str) -> Container:
        """A new container as Compose would make it: the same in all but name, number and GPU."""
        found = self._client.api.inspect_container(siblings[0].id)
        numbers = {_number(one) for one in self._containers(service)}
        number = next(n for n in range(1, MOST_REPLICAS + 2) if n not in numbers)
        config = {name: value for name, value in found["Config"].items() if name != "Hostname"}
        config["Labels"] = {**config["Labels"], NUMBER: str(number)}
        config["HostConfig"] = self._on_a_free_gpu(found["HostConfig"], siblings)
        config["NetworkingConfig"] = {
            "EndpointsConfig": {
                name: {"Aliases": [service]} for name in found["NetworkSettings"]["Networks"]
            }
        }
        made = self._client.api.create_container_from_config(
            config, name=f"{self._project}-{service}-{number}"
        )
        return self._client.containers.get(made["Id"])

    def _on_a_free_gpu(self, host: dict[str, Any], siblings: Sequence[Container]) -> dict[str, Any]:
        """A container that reserves one GPU gets that with the fewest replicas on it: by "count"
        alone Docker would give all of them the first."""
        wanted = host.get("DeviceRequests")
        if not wanted or not any(request.get("Driver") == "nvidia" for request in wanted):
            return host
        from gateway.gpus import visible_gpus

        gpus = visible_gpus({"PATH": "/usr/local/bin:/usr/bin:/bin"})
        if len(gpus) < 2:
            return host
        taken = Counter(_gpu_of(one, gpus[0]) for one in siblings)
        freest = min(gpus, key=lambda gpu: (taken[gpu], gpus.index(gpu)))
        return {
            **host,
            "DeviceRequests": [
                {**request, "Count": 0, "DeviceIDs": [freest]} for request in wanted
            ],
        }

    def _containers(self, service: str | None = None) -> list[Container]:
        """By number."""
        labels = [f"{PROJECT}={self._project}", f"{ONE_OFF}=False"]
        if service is not None:
            labels.append(f"{SERVICE}={service}")
        try:
            found = self._client.containers.list(all=True, filters={"label": labels})
        except _docker_errors() as error:
            raise NoDockerError(f"Docker does not answer: {error}") from error
        return sorted(found, key=_number)


def _connect() -> docker.DockerClient:
    try:
        import docker
    except ImportError as error:
        raise NoDockerError(
            "the Python package `docker` is not installed: install the extra 'hosts'"
        ) from error
    address = os.environ.get("DOCKER_HOST") or _DEFAULT_SOCKET
    if address.startswith("unix://") and not Path(address.removeprefix("unix://")).exists():
        raise NoDockerError(_no_answer(f"there is no {address}"))
    try:
        client = docker.from_env()
        client.ping()
    except _docker_errors() as error:
        raise NoDockerError(_no_answer(str(error))) from error
    return client


def _no_answer(why: str) -> str:
    return (
        f"Docker does not answer ({why}): is its engine running, may this user use it, and does"
        " DOCKER_HOST name it? On Kubernetes use kubectl scale"
    )


def _docker_errors() -> tuple[type[Exception], ...]:
    from docker.errors import DockerException
    from requests.exceptions import RequestException

    return (DockerException, RequestException, OSError)


def _agents_of(container: Container) -> tuple[str, ...]:
    command = container.attrs["Config"].get("Cmd") or []
    return tuple(command[2:]) if command[:2] == ["xr", "agent"] else ()


def _number(container: Container) -> int:
    return int(container.labels.get(NUMBER, "1"))


def _is_running(container: Container) -> bool:
    return bool(container.attrs["State"]["Running"])


def _is_healthy(container: Container) -> bool:
    state = container.attrs["State"]
    return "Health" not in state or state["Health"]["Status"] == "healthy"


def _gpu_of(container: Container, first: str) -> str:
    for request in container.attrs["HostConfig"].get("DeviceRequests") or []:
        if request.get("DeviceIDs"):
            return str(request["DeviceIDs"][0])
    return first
