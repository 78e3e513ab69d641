"""The same with the demo's real checkpoints: every agent killed once in one run."""

from __future__ import annotations

import json
import shutil
import time
from pathlib import Path
from typing import Any

from tests.faults.catalogue import case
from tests.faults.processes import AGENTS
from tests.faults.system import System, wait_for
from tests.faults.watched_run import Outcome, Task, WatchedRun
from tests.faults.workplace import Workplace

_QUERIES, _IMAGES = 40, 100
_TASK = Task("demo", "val", _QUERIES, {"top_k": 10, "rank_depth": 50})


@case(
    "demo-checkpoints",
    f"kill -9 of each agent once, with the demo's own checkpoints, {_IMAGES} images",
)
def demo_checkpoints(workplace: Workplace, name: str) -> Outcome:
    folder = workplace.root / name
    shutil.rmtree(folder, ignore_errors=True)
    write_part_of_demo(workplace.data_root / "demo", folder / "data" / "demo")
    given = {
        "XR_PROFILE": "demo",
        "XR_DATA_ROOT": str(folder / "data"),
        "XR_WINDOW": "8",
        "XR_MAX_BATCH": "4",
        "XR_ANSWER_CACHE": "off",  # the undisturbed run's answers would be found there
    }
    with System(folder / "home", given) as system:
        reference = workplace.undisturbed(system, _TASK)
        with WatchedRun.submit(system, _TASK) as run:
            run.reach(0.1)
            first_kill = time.monotonic()
            for agent in AGENTS:
                _kill_and_await(system, agent)
                run.go_on()
            return run.judge(
                reference,
                first_kill,
                remarks=(
                    f"{_QUERIES} queries, undisturbed in {reference.seconds:.1f} s; recovery holds "
                    "the time that loading the checkpoints again takes",
                ),
            )


def _kill_and_await(system: System, agent: str) -> None:
    """Kill an agent with a batch in hand; return when another one has loaded its models."""
    wait_for(f"{agent} has a batch in hand", lambda: system.in_hand(agent), 60.0)
    served_before = _times_served(system, agent)
    system.signal(agent)
    wait_for("it serves again", lambda: _times_served(system, agent) > served_before, 120.0)


def _times_served(system: System, agent: str) -> int:
    return system.log(f"{agent}-1").count(f"serving {agent} as")


def write_part_of_demo(whole: Path, part: Path) -> None:
    """The first queries of the demo, with the images they name and others up to `_IMAGES`."""
    queries = _lines(whole / "queries.jsonl")[:_QUERIES]
    named = {
        image_id for query in queries for image_id in (query["reference"], *query["target_ids"])
    }
    images = _lines(whole / "gallery.jsonl")
    others = [image for image in images if image["image_id"] not in named]
    kept = [image for image in images if image["image_id"] in named]
    kept += others[: max(0, _IMAGES - len(kept))]
    (part / "images").mkdir(parents=True)
    for image in kept:
        (part / image["file"]).hardlink_to(whole / image["file"])
    _write(part / "queries.jsonl", queries)
    _write(part / "gallery.jsonl", kept)


def _lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def _write(path: Path, records: list[dict[str, Any]]) -> None:
    path.write_text("".join(f"{json.dumps(record)}\n" for record in records))
