"""Which GPUs are visible, and how many replicas queues call for."""

from __future__ import annotations

from pathlib import Path

import pytest

from gateway.autoscaling import Autoscaler, Bounds, replicas_for
from gateway.gpus import visible_gpus
from shared.errors import ConfigurationError
from shared.profile_files import profile_workers


@pytest.mark.parametrize(
    ("given", "visible"),
    [("", []), ("0", ["0"]), ("2, GPU-ab", ["2", "GPU-ab"]), ("1,-1,3", ["1"])],
)
def test_cuda_visible_devices_counts(given: str, visible: list[str]) -> None:
    assert visible_gpus({"CUDA_VISIBLE_DEVICES": given, "PATH": ""}) == visible


def program(folder: Path, text: str) -> dict[str, str]:
    (folder / "nvidia-smi").write_text(f"#!/bin/sh\n{text}\n")
    (folder / "nvidia-smi").chmod(0o755)
    return {"PATH": str(folder)}


def test_else_all_that_the_driver_lists(tmp_path: Path) -> None:
    assert visible_gpus({"PATH": str(tmp_path)}) == []
    assert visible_gpus(program(tmp_path, "echo 0; echo 1")) == ["0", "1"]


def test_a_broken_driver_is_told_with_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match=r"driver mismatch.*CUDA_VISIBLE_DEVICES="):
        visible_gpus(program(tmp_path, "echo driver mismatch; exit 9"))


def test_profiles_say_which_agents_share_a_process(tmp_path: Path) -> None:
    assert profile_workers("vllm") == [["imagination", "question"], ["similarity"]]
    assert profile_workers("demo") is None
    (tmp_path / "half.toml").write_text('workers = [["question"]]')
    with pytest.raises(ConfigurationError, match="each of imagination, similarity, question once"):
        profile_workers(str(tmp_path / "half.toml"))


@pytest.mark.parametrize(
    ("waiting", "pending", "replicas"),
    [(0, 0, 1), (64, 0, 1), (65, 0, 2), (0, 33, 2), (1000, 0, 4)],
)
def test_replicas_are_what_lag_or_pending_call_for(
    waiting: int, pending: int, replicas: int
) -> None:
    assert replicas_for(waiting, pending, Bounds(1, 4)) == replicas


def test_up_at_once_and_down_only_after_a_quiet_while() -> None:
    scaler = Autoscaler(Bounds(1, 4), cool_down_s=60)
    assert scaler.wanted(0, 1, waiting=200, pending=0) == 4
    assert scaler.wanted(30, 4, waiting=0, pending=0) == 4
    assert scaler.wanted(59, 4, waiting=70, pending=0) == 4
    assert scaler.wanted(100, 4, waiting=0, pending=0) == 2  # 70 waited 41 s ago
    assert scaler.wanted(200, 2, waiting=0, pending=0) == 1
