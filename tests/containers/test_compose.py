"""The compose stack for real: built, healthy, the same predictions, killed, scaled, and gone."""

from __future__ import annotations

import json
import time
from pathlib import Path

import httpx
import pytest

from gateway.client import Client
from gateway.commands import output
from gateway.compose_host import ComposeHost
from gateway.local_stack import LocalStack
from shared.settings import Settings
from tests.containers.compose import PROJECT, ComposeStack

KNOBS = {"top_k": 10, "stages": ["coarse", "verify", "compare"], "baselines": True}
SERVICES = ("redis", "gateway", "coordinator", "similarity", "imagination", "question")


def predictions(gateway_url: str, name: str) -> bytes:
    with Client(gateway_url) as client:
        submitted = client.submit("demo", "val", name=name, knobs=KNOBS)
        *_, last = client.follow(submitted.id)
        assert last.state == "finished", last.error
        assert last.counts.get("failed", 0) == 0
        return predictions_file(gateway_url, submitted.id)


def predictions_file(gateway_url: str, run_id: str) -> bytes:
    """predictions.jsonl, byte for byte."""
    answer = httpx.get(f"{gateway_url}/v1/benchmarks/{run_id}/predictions")
    return answer.raise_for_status().content


@pytest.fixture(scope="session")
def in_containers(stack: ComposeStack) -> bytes:
    return predictions(stack.gateway_url, "first")


def test_every_service_is_healthy_and_runs_as_nobody_on_a_read_only_root(
    stack: ComposeStack,
) -> None:
    for service in SERVICES:
        assert stack.health(service) == ["healthy"], service
        (container,) = stack.containers(service)
        config, host = container.attrs["Config"], container.attrs["HostConfig"]
        assert config["User"] == "10001:10001", service
        assert host["ReadonlyRootfs"], service
        assert host["CapDrop"] == ["ALL"], service
        assert not [line for line in config["Env"] if "PASSWORD=" in line], service
        assert container.exec_run(["sh", "-c", "echo x > /opt/x"]).exit_code != 0, service


def test_the_predictions_are_those_of_processes_without_containers(
    in_containers: bytes, demo_data: Path, tmp_path: Path
) -> None:
    settings = Settings(home=tmp_path / "home", data_root=demo_data, profile="demo")
    with LocalStack(settings) as local:
        local.wait_ready()
        expected = predictions(local.gateway_url, "local")
    assert len(expected.splitlines()) >= 12
    assert in_containers == expected


def test_three_question_agents_make_it_no_different(
    stack: ComposeStack, in_containers: bytes
) -> None:
    stack.run("up", "--detach", "--no-build", "--wait", "--scale", "question=3")
    assert stack.health("question") == ["healthy"] * 3
    assert predictions(stack.gateway_url, "three") == in_containers


def test_scaling_down_drains_and_docker_tells_the_replicas(stack: ComposeStack) -> None:
    stack.run("up", "--detach", "--no-build", "--wait", "--scale", "question=2")
    with ComposeHost(PROJECT) as host:
        assert host.service_of("question") == "question"
        host.scale("question", 3, output.notes.print)
        stack.wait_healthy("question", 3)
        host.scale("question", 1, output.notes.print)
        (question,) = [one for one in host.services() if one.service == "question"]
        assert (question.running, question.healthy, question.stopped) == (1, 1, 0)
        host.scale("question", 0, output.notes.print)
        (gone,) = stack.containers("question")
        assert gone.attrs["State"]["ExitCode"] == 0  # it drained, nobody had to kill it
        assert b"draining" in gone.logs()
        host.scale("question", 1, output.notes.print)
        stack.wait_healthy("question", 1)


def test_a_killed_agent_comes_back_and_its_run_completes(
    stack: ComposeStack, in_containers: bytes
) -> None:
    (question,) = stack.containers("question")
    restarts = question.attrs["RestartCount"]
    with Client(stack.gateway_url) as client:
        submitted = client.submit("demo", "val", name="killed", knobs=KNOBS)
        for view in client.follow(submitted.id, every_s=0.1):
            if any(phase.phase == "query" or phase.done for phase in view.progress):
                break
        # every process but the container's first, which then ends as well
        question.exec_run(["python3", "-c", "import os; os.kill(-1, 9)"])
        *_, last = client.follow(submitted.id)
        assert last.state == "finished", last.error
        assert predictions_file(stack.gateway_url, submitted.id) == in_containers
    stack.wait_healthy("question", 1)
    question.reload()
    assert question.attrs["RestartCount"] == restarts + 1


def test_every_line_an_agent_or_coordinator_logs_is_json_with_its_run(stack: ComposeStack) -> None:
    (coordinator,) = stack.containers("coordinator")
    lines = [json.loads(line) for line in coordinator.logs().splitlines() if line.strip()]
    assert any("run" in line for line in lines)
    assert all({"at", "level", "from", "event"} <= line.keys() for line in lines)


def test_nothing_is_left_after_down(stack: ComposeStack) -> None:
    began = time.monotonic()
    stack.run("--profile", "*", "down", "--volumes")
    assert stack.leftovers() == []
    assert time.monotonic() - began < 60, "something did not end by SIGTERM"
