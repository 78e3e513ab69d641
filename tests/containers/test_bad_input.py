"""What a container's log says when something is missing: what it is, and what to do."""

from __future__ import annotations

from typing import Any

import pytest

import docker
from tests.containers.compose import ComposeStack


def words_of(stack: ComposeStack, image: str, command: list[str], **options: Any) -> str:
    """The log of a container that must end with status 2."""
    container = stack.docker.containers.run(
        image, command, detach=True, read_only=True, tmpfs={"/tmp": ""}, **options
    )
    try:
        status = container.wait(timeout=120)["StatusCode"]
        words = container.logs().decode()
    finally:
        container.remove(force=True, v=True)
    assert status == 2, f"{status}: {words}"
    return words


@pytest.mark.parametrize("command", [["xr", "gateway"], ["xr", "coordinator"]])
def test_a_missing_secret_is_named_with_the_way_to_make_it(
    stack: ComposeStack, command: list[str]
) -> None:
    given = {"XR_REDIS_PASSWORD_FILE": "/run/secrets/redis-password"}
    words = words_of(stack, "xr-services:0.1.0", command, environment=given)
    assert "XR_REDIS_PASSWORD_FILE" in words
    assert "make secrets" in words


def test_redis_does_not_start_without_its_password(stack: ComposeStack) -> None:
    words = words_of(stack, "xr-redis:0.1.0", ["redis-start"])
    assert "/run/secrets/redis-password" in words
    assert "make secrets" in words


def test_a_full_volume_is_told_before_redis_starts(stack: ComposeStack) -> None:
    full = stack.docker.containers.create(  # a secret needs no more than a file
        "xr-redis:0.1.0",
        ["sh", "-c", "echo secret > /tmp/p; exec redis-start"],
        environment={"REDIS_PASSWORD_FILE": "/tmp/p"},
        tmpfs={"/tmp": "", "/var/lib/xr-redis": "size=4k,uid=10001"},
    )
    try:
        full.start()
        assert full.wait(timeout=60)["StatusCode"] == 2
        assert "volume full" in full.logs().decode()
    finally:
        full.remove(force=True, v=True)


def test_a_wrong_model_path_is_named(stack: ComposeStack) -> None:
    given = {"XR_PROFILE": "paper", "XR_CLIP": "/models/nothing-here"}
    words = words_of(stack, "xr-agents:0.1.0", ["xr", "agent", "similarity"], environment=given)
    assert "/models/nothing-here" in words


def test_an_unknown_profile_lists_those_there_are(stack: ComposeStack) -> None:
    given = {"XR_PROFILE": "papr"}
    words = words_of(stack, "xr-agents:0.1.0", ["xr", "agent", "question"], environment=given)
    assert "'papr'" in words
    assert "vllm" in words


def test_an_engine_that_the_image_lacks_is_named(stack: ComposeStack) -> None:
    given = {"XR_PROFILE": "vllm"}
    words = words_of(stack, "xr-agents:0.1.0", ["xr", "agent", "question"], environment=given)
    assert "vllm" in words


def test_a_host_without_gpus_says_so_and_starts_nothing(stack: ComposeStack) -> None:
    gpu = docker.types.DeviceRequest(driver="nvidia", count=1, capabilities=[["gpu"]])
    if "nvidia" in stack.docker.info().get("Runtimes", {}):
        pytest.skip("this host has NVIDIA's container runtime")
    refused = stack.docker.containers.create("xr-agents:0.1.0", ["true"], device_requests=[gpu])
    try:
        with pytest.raises(docker.errors.APIError, match="device driver"):
            refused.start()
    finally:
        refused.remove(force=True, v=True)
