"""Skips unless asked for, and where no Docker engine or Compose answers; the stack itself."""

from __future__ import annotations

import os
import shutil
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from shared.demo_world.benchmark import build, write
from tests.containers.compose import ComposeStack, compose_command


@pytest.fixture(scope="session")
def compose() -> list[str]:
    """The command of Compose, once it is known that an engine answers."""
    if not os.environ.get("XR_TEST_CONTAINERS"):
        pytest.skip("builds and runs images: `make test-containers`")
    docker = pytest.importorskip("docker")
    command = compose_command()
    if command is None:
        pytest.skip("neither `docker compose` nor `docker-compose` is installed")
    try:
        docker.from_env().ping()
    except docker.errors.DockerException as error:
        pytest.skip(f"no Docker engine answers (DOCKER_HOST names another): {error}")
    return command


@pytest.fixture(scope="session")
def demo_data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small demo data set that any user may read."""
    root = tmp_path_factory.mktemp("containers") / "data"
    write(build(seed=11, n_queries=12, n_gallery=120), root / "demo")
    for folder in (root, *root.parents):
        if folder.stat().st_uid == os.getuid() and str(folder).startswith(
            str(tmp_path_factory.getbasetemp().parent.parent)
        ):
            folder.chmod(folder.stat().st_mode | 0o055)
    return root


@pytest.fixture(scope="session")
def stack(compose: list[str], demo_data: Path) -> Iterator[ComposeStack]:
    """The CPU stack under a name of its own, built, up and healthy; gone afterwards."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    stack = ComposeStack(compose, port, demo_data)
    try:
        stack.run("build")
        stack.run("up", "--detach", "--wait", "--wait-timeout", "300")
        yield stack
    finally:
        stack.run("--profile", "*", "down", "--volumes", "--timeout", "20", check=False)
        shutil.rmtree(demo_data, ignore_errors=True)
