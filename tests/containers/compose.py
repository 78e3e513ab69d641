"""One compose project of this repository, driven by the real Compose and the Docker SDK."""

from __future__ import annotations

import os
import shutil
import subprocess
import time
from pathlib import Path

from docker.models.containers import Container

import docker

ROOT = Path(__file__).resolve().parents[2]
PROJECT = "xr-test"
_LABEL = f"com.docker.compose.project={PROJECT}"


def compose_command() -> list[str] | None:
    """`docker compose` where the plug-in is there, else `docker-compose`, else None."""
    if shutil.which("docker"):
        asked = subprocess.run(["docker", "compose", "version"], capture_output=True, check=False)
        if asked.returncode == 0:
            return ["docker", "compose"]
    return ["docker-compose"] if shutil.which("docker-compose") else None


class ComposeStack:
    """The CPU stack with its gateway on `port` of this host."""

    def __init__(self, compose: list[str], port: int, data: Path) -> None:
        self.gateway_url = f"http://127.0.0.1:{port}"
        self.docker = docker.from_env()
        self._command = [
            *compose, "--project-directory", str(ROOT), "--project-name", PROJECT,
            "--file", str(ROOT / "compose.yaml"), "--file", str(ROOT / "compose.cpu.yaml"),
        ]  # fmt: skip
        self._environment = {
            **{name: value for name, value in os.environ.items() if name != "COMPOSE_PROFILES"},
            "XR_GATEWAY_PORT": str(port),
            "XR_DATA": str(data),
            "XR_ANSWER_CACHE": "off",  # every run has to be answered by the models
            # the same build works on engines without BuildKit
            "DOCKER_BUILDKIT": os.environ.get("DOCKER_BUILDKIT", "0"),
        }

    def run(self, *arguments: str, check: bool = True) -> str:
        """One command of Compose; its output. A failure shows it."""
        done = subprocess.run(
            [*self._command, *arguments],
            env=self._environment, capture_output=True, text=True, check=False,
        )  # fmt: skip
        output = done.stdout + done.stderr
        assert not check or done.returncode == 0, f"{arguments}: {output[-3000:]}"
        return output

    def containers(self, service: str) -> list[Container]:
        labels = [_LABEL, f"com.docker.compose.service={service}"]
        return list(self.docker.containers.list(all=True, filters={"label": labels}))

    def health(self, service: str) -> list[str]:
        """Of every container of a service: healthy, unhealthy, starting, or its state."""
        states = [one.attrs["State"] for one in self.containers(service)]
        return [state.get("Health", {}).get("Status") or state["Status"] for state in states]

    def wait_healthy(self, service: str, count: int, within_s: float = 180.0) -> None:
        deadline = time.monotonic() + within_s
        while self.health(service) != ["healthy"] * count:
            assert time.monotonic() < deadline, f"{service}: {self.health(service)}"
            time.sleep(1)

    def leftovers(self) -> list[str]:
        """Names of what the project still has on this host."""
        filters = {"label": _LABEL}
        return [
            *(one.name for one in self.docker.containers.list(all=True, filters=filters)),
            *(one.name for one in self.docker.networks.list(filters=filters)),
            *(one.name for one in self.docker.volumes.list(filters=filters)),
        ]
