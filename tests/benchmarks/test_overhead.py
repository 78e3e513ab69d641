"""The overhead benchmark's own arithmetic: meters, figures per query, verdicts."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.benchmarks.engines import MeteredLanguageModel, metered
from tests.benchmarks.meters import (
    CallMeter,
    children_of,
    cpu_of,
    is_alive,
    peak_memory_mb,
    read_call_meters,
)
from tests.benchmarks.report import SizeCost, judge, table
from tests.benchmarks.runs import RunCost, Spent


def spin(cpu_s: float) -> None:
    end = time.thread_time() + cpu_s
    while time.thread_time() < end:
        pass


def run_cost(
    queries: int, redis_s: float, ranking_s: float = 0.0, peak_mb: float = 60.0
) -> RunCost:
    """A run whose queries took Redis `redis_s`, and whose evaluation took 1 ms a query."""
    return RunCost(
        queries=queries,
        answering=Spent({"redis": redis_s}, ranking_s, 0.0, 10.0),
        evaluation_s=0.001 * queries,
        run_bytes=5_000 * queries,
        state_bytes=4_000 * queries,
        redis_bytes=10_000 * queries,
        disk_bytes=None,
        answering_peak_mb=peak_mb,
        peak_mb=peak_mb,
    )


def size_cost(images: int, short: RunCost, run: RunCost) -> SizeCost:
    return SizeCost(images, Spent({"redis": 0.05}, 0.0, 0.0, 5.0), short, run, {})


def test_a_call_meter_counts_the_cpu_of_its_calls_alone(tmp_path: Path) -> None:
    call = metered(spin, CallMeter(tmp_path, "ranking"))
    call(0.03)
    spin(0.03)
    time.sleep(0.01)
    call(0.03)
    assert read_call_meters(tmp_path, "ranking") == pytest.approx(0.06, abs=0.02)
    assert read_call_meters(tmp_path, "models") == 0.0


def test_a_finished_child_is_counted_with_its_parent() -> None:
    before = cpu_of(os.getpid())
    child = subprocess.Popen([sys.executable, "-c", "while True: pass"])
    assert child.pid in children_of(os.getpid())
    while cpu_of(child.pid).own_s < 0.1:
        time.sleep(0.01)
    assert peak_memory_mb(child.pid) > 1.0
    child.kill()
    child.wait()
    assert not is_alive(child.pid)
    assert cpu_of(os.getpid()).children_s - before.children_s >= 0.09


def test_the_language_model_proposes_as_many_questions_as_it_may(tmp_path: Path) -> None:
    from agents.backends.contract import GenerationRequest, Prompt
    from agents.question.parsing import propositions
    from agents.question.schemas import propositions_schema

    model = MeteredLanguageModel(CallMeter(tmp_path, "models"))
    request = GenerationRequest(Prompt("make it red"), 64, propositions_schema(3))
    (answer,) = model.generate([request])
    assert isinstance(answer, str)
    assert len(propositions(answer, 3).propositions) == 3


def test_ranking_is_taken_out_of_the_sum_and_what_a_run_costs_once_out_of_each_query() -> None:
    # 0.2 s once, and per query 6 ms, 2 ms of which rank, and 1 ms of evaluation
    cost = size_cost(
        1_000, run_cost(100, 0.2 + 0.6, ranking_s=0.2), run_cost(600, 0.2 + 3.6, ranking_s=1.2)
    )
    assert cost.sum_ms == pytest.approx(1000 * (3.8 + 0.6) / 600)
    assert cost.without_ranking_ms == pytest.approx(cost.sum_ms - 2.0)
    assert cost.further_ms == pytest.approx(5.0)
    assert cost.once_ms == pytest.approx(200.0)
    assert cost.written_kb == pytest.approx(15.0)


def test_every_target_is_judged_by_the_worst_size() -> None:
    cheap = size_cost(1_000, run_cost(100, 0.4), run_cost(600, 2.4))
    dear = size_cost(123_000, run_cost(100, 1.2, peak_mb=90.0), run_cost(600, 7.2, peak_mb=140.0))
    verdicts = {
        verdict.target.split("(")[0].strip(): verdict.met for verdict in judge([cheap, dear])
    }
    assert verdicts == {
        "CPU per query without ranking <= 10 ms": False,
        "CPU of each further query independent of the gallery": False,
        "coordinator memory independent of the queries": False,
        "coordinator memory independent of the gallery": False,
        "written per query <= 20 KB": True,
    }
    assert all(verdict.met for verdict in judge([cheap]))
    assert "123,000" in table([cheap, dear], judge([cheap, dear]))
