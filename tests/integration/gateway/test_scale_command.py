"""`xr scale` where it cannot do what was asked: it says why, and what to do."""

from __future__ import annotations

import pytest

from gateway.cli import FAILED, USAGE, run


@pytest.fixture(autouse=True)
def _no_docker(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DOCKER_HOST", "unix:///nowhere/docker.sock")


def test_without_docker_it_says_so(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["scale", "question=3"]) == FAILED
    told = " ".join(capsys.readouterr().err.split())
    assert "Docker does not answer" in told
    assert "kubectl scale" in told


def test_what_is_no_number_of_replicas_is_told_before_docker_is_asked(
    capsys: pytest.CaptureFixture[str],
) -> None:
    for wrong in (["question"], ["question=1..4"], ["--auto", "q=4..1"], ["--auto", "q=4"]):
        assert run(["scale", *wrong]) == USAGE
        assert "write it as question=" in " ".join(capsys.readouterr().err.split())
