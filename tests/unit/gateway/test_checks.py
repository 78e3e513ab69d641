"""`xr doctor`: each check against a machine that has, or lacks, what it looks at."""

from __future__ import annotations

import socket
import sys
from collections import namedtuple
from pathlib import Path

import pytest

from gateway import checks
from gateway.checks import Check, check_machine
from gateway.cli import DONE, FAILED, run
from gateway.records import Readiness
from shared.settings import Settings


@pytest.fixture(autouse=True)
def elsewhere(monkeypatch: pytest.MonkeyPatch) -> None:
    """No gateway and no Redis of this machine takes part."""
    monkeypatch.delenv("XR_REDIS_URL", raising=False)


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return Settings(
        home=tmp_path / "home", data_root=tmp_path / "data", profile="demo",
        gateway_port=free_port(), gateway_url="http://127.0.0.1:1",
    )  # fmt: skip


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def found(settings: Settings, name: str) -> Check:
    return next(check for check in check_machine(settings) if check.name == name)


def test_every_finding_that_is_not_fine_says_what_to_do(settings: Settings) -> None:
    names = [check.name for check in check_machine(settings)]
    assert {"Python", "Redis", "GPU", "data", "home", "port", "gateway"} <= set(names)
    for check in check_machine(settings):
        assert bool(check.advice) == (check.state != "ok") or check.name == "GPU", check


def test_another_python_is_trouble(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    assert found(settings, "Python").state == "ok"
    version = namedtuple("version", "major minor micro releaselevel serial")
    monkeypatch.setattr(sys, "version_info", version(3, 9, 1, "final", 0))
    check = found(settings, "Python")
    assert (check.state, check.found) == ("trouble", "3.9.1")
    assert "3.11 or 3.12" in check.advice


def test_a_redis_that_does_not_answer_is_trouble_without_its_password(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    url = f"redis://:secret@127.0.0.1:{free_port()}/0"
    monkeypatch.setenv("XR_REDIS_URL", url)
    check = found(Settings(redis_url=url, home=settings.home), "Redis")
    assert check.state == "trouble"
    assert "secret" not in check.found
    assert "mend XR_REDIS_URL" in check.advice


def test_a_profile_for_gpus_on_a_machine_without_one(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(checks.shutil, "which", lambda _: None)
    assert found(settings, "GPU").found == "none; profile demo needs none"
    check = found(Settings(home=settings.home, profile="vllm"), "GPU")
    assert check.state == "trouble"
    assert "XR_PROFILE=demo" in check.advice


def test_a_gpu_is_told_by_its_name(
    settings: Settings, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    program = tmp_path / "nvidia-smi"
    program.write_text("#!/bin/sh\necho 'Some GPU, 81559 MiB'\n")
    program.chmod(0o755)
    monkeypatch.setattr(checks.shutil, "which", lambda _: str(program))
    assert found(settings, "GPU") == Check(name="GPU", state="ok", found="Some GPU, 81559 MiB")


def profile(tmp_path: Path, model: str) -> Settings:
    path = tmp_path / "mine.toml"
    roles = ("captioner", "imaginer_text", "imaginer_image", "proposer", "evaluator_image",
             "evaluator_caption", "clip")  # fmt: skip
    path.write_text(
        f"[models.one]\n{model}\n[roles]\n" + "".join(f'{role} = "one"\n' for role in roles)
    )
    return Settings(home=tmp_path, profile=str(path))


@pytest.mark.parametrize(
    ("model", "state", "told"),
    [
        ('backend = "transformers"\ncheckpoint = "./nowhere"', "trouble", "./nowhere is not there"),
        ('backend = "transformers"\ncheckpoint = "./here"', "ok", "transformers ./here"),
        ('backend = "transformers"\ncheckpoint = "org/name"', "ok", "transformers org/name"),
    ],
)
def test_checkpoints_of_the_profile_are_looked_for(
    tmp_path: Path, model: str, state: str, told: str
) -> None:
    (tmp_path / "here").mkdir()
    check = found(profile(tmp_path, model), "model one")
    assert (check.state, check.found) == (state, told)


def test_an_engine_that_is_not_installed_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(checks.importlib.util, "find_spec", lambda _: None)
    check = found(profile(tmp_path, 'backend = "vllm"\ncheckpoint = "org/name"'), "model one")
    assert check.found == "the package vllm is missing"
    assert "requirements-vllm.lock" in check.advice


def test_a_profile_that_is_not_there_is_trouble(tmp_path: Path) -> None:
    states = {
        check.name: check.state
        for check in check_machine(Settings(home=tmp_path, profile="no-such-profile"))
    }
    assert "trouble" in {state for name, state in states.items() if "Python" not in name}


def test_data_sets_are_named(settings: Settings) -> None:
    assert found(settings, "data").state == "remark"
    (settings.data_root / "CIRR").mkdir(parents=True)
    check = found(settings, "data")
    assert check.state == "ok"
    assert "CIRR" in check.found


def test_a_full_or_locked_home_is_told(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(checks.shutil, "disk_usage", lambda _: usage(1, 1, 10_000_000))
    check = found(settings, "home")
    assert check.state == "remark"
    assert "xr index clean" in check.advice
    monkeypatch.setattr(checks.os, "access", lambda *_: False)
    check = found(settings, "home")
    assert check.state == "trouble"
    assert "not writable" in check.found


def test_a_port_in_use_is_a_remark(settings: Settings) -> None:
    assert found(settings, "port").state == "ok"
    with socket.socket() as taken:
        taken.bind((settings.gateway_host, settings.gateway_port))
        taken.listen()
        check = found(settings, "port")
    assert check.state == "remark"
    assert "in use" in check.found


def test_a_gateway_that_answers_says_whether_it_is_ready(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    ready = Readiness(ready=True, redis=True, coordinators=1, agents={})
    monkeypatch.setattr(checks.Client, "readiness", lambda _: ready)
    assert found(settings, "gateway").state == "ok"
    lacking = ready.model_copy(update={"ready": False, "reasons": ["no question agent"]})
    monkeypatch.setattr(checks.Client, "readiness", lambda _: lacking)
    check = found(settings, "gateway")
    assert (check.state, check.found) == ("trouble", "no question agent")


def test_the_command_fails_exactly_when_there_is_trouble(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from gateway.commands import doctor

    fine = Check(name="Redis", state="ok", found="there")
    remark = Check(name="GPU", state="remark", found="none", advice="fine")
    bad = Check(name="data", state="trouble", found="gone", advice="bring it back")
    for given, status in (([fine, remark], DONE), ([fine, bad], FAILED)):
        monkeypatch.setattr(doctor, "check_machine", lambda _, given=given: iter(given))
        assert run(["doctor"]) == status
    assert "bring it back" in capsys.readouterr().out
