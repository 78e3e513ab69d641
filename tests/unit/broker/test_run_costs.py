"""What a run has cost: by agent, over all its owners."""

from __future__ import annotations

import json
from pathlib import Path

from broker.run_costs import RunCosts, costs_line
from broker.run_store import COSTS, RunRequest, create_run, run_folder


def test_a_resumed_run_adds_to_what_its_former_owner_spent(tmp_path: Path) -> None:
    run_id = create_run(tmp_path, RunRequest(dataset="demo", split="val"), "clip")
    folder = run_folder(tmp_path, run_id)
    first = {"question": {"requests": 3, "cache_hits": 1, "cache_misses": 3}}
    RunCosts(tmp_path, run_id, folder).write(first)
    # When the next owner writes several times, its own costs count once
    costs = RunCosts(tmp_path, run_id, folder)
    costs.write({"question": {"requests": 1}})
    costs.write({"question": {"requests": 2, "cache_hits": 2}, "imagination": {"requests": 5}})
    written = json.loads((folder / COSTS).read_bytes())
    assert written["agents"]["question"] == {"cache_hits": 3, "cache_misses": 3, "requests": 5}
    assert written["total"]["requests"] == 10
    assert written["cache_hit_rate"] == 0.5
    assert "50.0% of answers cached" in costs_line(written)


def test_a_damaged_file_is_begun_anew(tmp_path: Path) -> None:
    run_id = create_run(tmp_path, RunRequest(dataset="demo", split="val"), "clip")
    folder = run_folder(tmp_path, run_id)
    (folder / COSTS).write_bytes(b"no json")
    RunCosts(tmp_path, run_id, folder).write({"question": {"requests": 2}})
    assert json.loads((folder / COSTS).read_bytes())["total"] == {"requests": 2}
