"""The whole system as processes, with models that cost nothing: one benchmark over HTTP."""

from __future__ import annotations

from pathlib import Path

from gateway.child import processes_of_session
from gateway.client import Client
from gateway.local_stack import LocalStack
from gateway.records import BenchmarkView
from shared.demo_world.benchmark import build, write
from shared.settings import Settings

PROFILE = """
prompts = "compact"
[models.words]
backend = "zero_cost"
[models.clip]
backend = "zero_cost_clip"
[roles]
captioner = "words"
imaginer_text = "words"
imaginer_image = "words"
proposer = "words"
evaluator_image = "words"
evaluator_caption = "words"
clip = "clip"
"""
KNOBS = {"top_k": 5, "baselines": True}


def run(client: Client) -> BenchmarkView:
    submitted = client.submit("demo", "val", knobs=KNOBS, limit=3)
    *_, last = client.follow(submitted.id, every_s=0.1)
    assert last.state == "finished", last.error
    return last


def test_a_benchmark_runs_through_all_services_and_the_second_builds_nothing(
    tmp_path: Path,
) -> None:
    # Given all services on this machine, and a small demo data set
    profile = tmp_path / "instant.toml"
    profile.write_text(PROFILE)
    write(build(seed=3, n_queries=3, n_gallery=24), tmp_path / "data" / "demo")
    home = tmp_path / "home"
    settings = Settings(home=home, data_root=tmp_path / "data", profile=str(profile))

    # When two benchmarks run, one after the other
    with LocalStack(settings) as stack, Client(stack.gateway_url) as client:
        stack.wait_ready()
        keepers = [status.pid for status in stack.supervisor.statuses()]
        first = run(client)
        databases = {path: path.stat().st_mtime_ns for path in files_of(home / "image_db")}
        second = run(client)
        assert client.metrics_table(second.id)
        assert [view.id for view in client.benchmarks()] == [second.id, first.id]
        assert client.readiness().ready

    # Then every query was answered, and the image database was built once
    assert first.counts["queries"] == first.counts["answered"] == 3
    assert set(second.metrics) >= {"image_only", "coarse", "verified"}
    assert second.metrics == first.metrics
    assert databases
    assert {path: path.stat().st_mtime_ns for path in files_of(home / "image_db")} == databases
    # and no process is left
    assert all(pid is not None and processes_of_session(pid) == [] for pid in keepers)


def files_of(folder: Path) -> list[Path]:
    return sorted(path for path in folder.rglob("*") if path.is_file())
