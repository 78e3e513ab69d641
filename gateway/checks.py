"""What `xr doctor` looks at on this machine: one function a check, each says what to do."""

from __future__ import annotations

import importlib.util
import os
import shutil
import socket
import subprocess
import sys
from collections.abc import Iterator
from typing import Any, Literal

import msgspec
from redis import Redis
from redis.exceptions import RedisError

from gateway.client import Client, GatewayError, GatewayUnreachableError
from shared.errors import ConfigurationError
from shared.profile_files import find_profile, read_profile
from shared.redis_server import find_redis_server
from shared.settings import Settings, mask_secrets

State = Literal["ok", "remark", "trouble"]
_ENGINES = {"transformers": "transformers", "open_clip": "open_clip", "vllm": "vllm"}
_ROOM_BYTES = 2_000_000_000
_GPU_WITHIN_S = 10


class Check(msgspec.Struct, frozen=True, kw_only=True):
    """One finding.

    Attributes:
        state: "remark" is nothing that stands in the way here.
        advice: what to do; empty when it is ok.
    """

    name: str
    state: State
    found: str
    advice: str = ""


def check_machine(settings: Settings) -> Iterator[Check]:
    """All checks, one after another as they are done."""
    yield _python()
    yield _redis(settings)
    yield _gpu(settings)
    yield from _models(settings)
    yield _data(settings)
    yield _home(settings)
    yield _port(settings)
    yield _gateway(settings)


def _python() -> Check:
    version = ".".join(map(str, sys.version_info[:3]))
    if (3, 11) <= sys.version_info[:2] <= (3, 12):
        return Check(name="Python", state="ok", found=version)
    return Check(
        name="Python", state="trouble", found=version,
        advice="install Python 3.11 or 3.12, then `make env PYTHON=python3.11`",
    )  # fmt: skip


def _redis(settings: Settings) -> Check:
    if "XR_REDIS_URL" in os.environ:
        shown = mask_secrets(settings.redis_url)
        try:
            with Redis.from_url(
                settings.redis_url, socket_connect_timeout=3, socket_timeout=3, protocol=2
            ) as client:
                version = client.info("server").get("redis_version", "?")
        except (RedisError, ValueError) as error:
            return Check(
                name="Redis", state="trouble", found=f"{shown}: {mask_secrets(str(error))}",
                advice="start it, or mend XR_REDIS_URL; without that `xr up` starts its own",
            )  # fmt: skip
        return Check(name="Redis", state="ok", found=f"{shown}, version {version}")
    try:
        return Check(name="Redis", state="ok", found=f"{find_redis_server()}, started by `xr up`")
    except ConfigurationError as error:
        return Check(name="Redis", state="trouble", found="no server program", advice=str(error))


def _gpu(settings: Settings) -> Check:
    needed = any(model.get("backend") == "vllm" for model in _profile(settings).values())
    program = shutil.which("nvidia-smi")
    found = ""
    if program:
        asked = [program, "--query-gpu=name,memory.total", "--format=csv,noheader"]
        try:
            answer = subprocess.run(  # noqa: S603 - fixed words
                asked, capture_output=True, text=True, timeout=_GPU_WITHIN_S, check=False
            )
            found = "; ".join(answer.stdout.strip().splitlines())
        except (OSError, subprocess.TimeoutExpired):
            found = ""
    if found:
        return Check(name="GPU", state="ok", found=found)
    if needed:
        return Check(
            name="GPU", state="trouble", found="none seen",
            advice=f"profile {settings.profile} needs one: install NVIDIA's driver, or use "
            "XR_PROFILE=demo, or another profile with an `openai` server elsewhere",
        )  # fmt: skip
    return Check(name="GPU", state="remark", found=f"none; profile {settings.profile} needs none")


def _models(settings: Settings) -> Iterator[Check]:
    """Whether the engines of the profile are installed, and its local checkpoints there."""
    try:
        path = find_profile(settings.profile)
        models = _profile(settings)
    except ConfigurationError as error:
        yield Check(name="profile", state="trouble", found=settings.profile, advice=str(error))
        return
    yield Check(name="profile", state="ok", found=f"{settings.profile} ({path})")
    for name, model in models.items():
        backend, checkpoint = str(model.get("backend", "")), str(model.get("checkpoint", ""))
        module = _ENGINES.get(backend)
        if module and importlib.util.find_spec(module) is None:
            yield Check(
                name=f"model {name}", state="trouble", found=f"the package {module} is missing",
                advice="`make env` installs the engines for CPU, requirements-vllm.lock vLLM's",
            )  # fmt: skip
        elif checkpoint.startswith((".", "/")) and not (path.parent / checkpoint).exists():
            yield Check(
                name=f"model {name}", state="trouble", found=f"{checkpoint} is not there",
                advice=f"put the checkpoint there, or name another in {path}",
            )  # fmt: skip
        else:
            yield Check(name=f"model {name}", state="ok", found=f"{backend} {checkpoint}".strip())


def _data(settings: Settings) -> Check:
    root = settings.data_root
    there = (
        sorted(child.name for child in root.iterdir() if child.is_dir()) if root.is_dir() else []
    )
    if there:
        found = f"{root}: {', '.join(there)} (`xr datasets check` says whether they are whole)"
        return Check(name="data", state="ok", found=found)
    return Check(
        name="data", state="remark", found=f"no data set in {root}",
        advice="`xr demo-data` writes the demo's; docs/data-sets.md says where others belong",
    )  # fmt: skip


def _home(settings: Settings) -> Check:
    place = next(path for path in (settings.home, *settings.home.parents) if path.exists())
    free = shutil.disk_usage(place).free
    found = f"{settings.home}, {free / 1e9:.1f} GB free"
    if not os.access(place, os.W_OK):
        return Check(
            name="home", state="trouble", found=f"{place} is not writable",
            advice="give this user the right to write there, or set XR_HOME",
        )  # fmt: skip
    if free < _ROOM_BYTES:
        return Check(
            name="home", state="remark", found=found,
            advice="image databases and runs need room: `xr index clean` frees some",
        )  # fmt: skip
    return Check(name="home", state="ok", found=found)


def _port(settings: Settings) -> Check:
    host, port = settings.gateway_host, settings.gateway_port
    with socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError as error:
            return Check(
                name="port", state="remark", found=f"{host} port {port}: {error.strerror}",
                advice="fine if that is your gateway; else choose another with XR_GATEWAY_PORT",
            )  # fmt: skip
    return Check(name="port", state="ok", found=f"{host} port {port} is free")


def _gateway(settings: Settings) -> Check:
    try:
        with Client(settings.gateway_url, timeout_s=3.0) as client:
            ready = client.readiness()
    except (GatewayUnreachableError, GatewayError):
        return Check(
            name="gateway", state="remark", found=f"none answers at {settings.gateway_url}",
            advice="`xr up` starts everything on this machine",
        )  # fmt: skip
    if ready.ready:
        return Check(name="gateway", state="ok", found=f"{settings.gateway_url} is ready")
    return Check(
        name="gateway", state="trouble", found="; ".join(ready.reasons),
        advice="`xr status` says more; logs lie in XR_HOME/logs",
    )  # fmt: skip


def _profile(settings: Settings) -> dict[str, dict[str, Any]]:
    try:
        models: dict[str, dict[str, Any]] = read_profile(find_profile(settings.profile)).get(
            "models", {}
        )
    except ConfigurationError:
        return {}
    return models
