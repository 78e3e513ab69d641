"""Runs with real agents over the real queues: killed, replayed, swept over, restored, compared."""

from __future__ import annotations

import contextlib
import csv
import json
import os
import random
import select
import shutil
import signal
import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any, get_args

import numpy as np
import pytest
from PIL import Image
from redis import Redis

from broker.paired_metrics import sign_test
from broker.query_state import encode_state
from broker.rq_worker import connect_sync
from broker.run_diff import diff_runs
from broker.run_store import RunRequest, read_json, read_states, run_folder
from broker.run_studies import replay_run, sweep_run
from broker.submission import submit_benchmark
from broker.sweep import Grid
from gateway.cli import run
from shared.contracts.skills import AgentName
from shared.errors import ConfigurationError
from shared.redis_server import PrivateRedis
from shared.settings import Settings, load_settings
from tests.unit.shared.index_scenes import contents

ROOT = Path(__file__).resolve().parents[3]
IMAGES, SINGLE_QUERIES, DIALOGUES, ROUNDS = 40, 12, 3, 4
KNOBS: dict[str, Any] = {
    "top_k": 30, "rank_depth": 30, "num_questions": 2, "baselines": True,
    "stages": ["coarse", "verify", "compare"], "compare_top": 30,
}  # fmt: skip
NARROW: dict[str, Any] = {"top_k": 8, "compare_top": 4}
ROLES = (
    "captioner", "imaginer_text", "imaginer_image", "proposer", "evaluator_image",
    "evaluator_caption",
)  # fmt: skip
PROFILE = "\n".join(
    [
        '[models.language]\nbackend = "agents.backends.zero_cost:language_model"',
        '[models.clip]\nbackend = "agents.backends.zero_cost:embedding_model"',
        "[roles]",
        *(f'{role} = "language"' for role in ROLES),
        'clip = "clip"',
    ]
)
KILLS = 20
RUN_FILES = ("predictions.jsonl", "metrics.json")


def _write_data(folder: Path) -> None:
    """Images, queries with references and subsets, and dialogues."""
    folder.mkdir(parents=True)
    drawn = np.random.default_rng(1).integers(0, 255, (IMAGES, 8, 8, 3), dtype=np.uint8)
    for n in range(IMAGES):
        Image.fromarray(drawn[n]).save(folder / f"{n:02d}.png")
    lines: list[dict[str, Any]] = [
        {
            "query_id": f"q{n}",
            "reference": None if n % 4 == 3 else f"{n:02d}.png",
            "modification_text": f"make it {n}",
            "target_ids": [f"{(3 * n + 1) % IMAGES:02d}.png"],
            "subset_ids": [f"{(3 * n + 7 * m + 1) % IMAGES:02d}.png" for m in range(4)],
        }
        for n in range(SINGLE_QUERIES)
    ]
    lines += [
        {
            "query_id": f"d{dialogue}r{n}",
            "modification_text": f"what of {n}? {dialogue}",
            "target_ids": [f"{20 + dialogue:02d}.png"],
            "dialogue_id": f"d{dialogue}",
            "round": n,
        }
        for dialogue in range(DIALOGUES)
        for n in range(ROUNDS)
    ]
    (folder / "queries.jsonl").write_text("\n".join(map(json.dumps, lines)))


class Workplace:
    """Zero-cost agents in a process of their own, and coordinators that can be killed."""

    def __init__(self, settings: Settings, variables: dict[str, str]) -> None:
        self.settings, self.variables = settings, variables
        self.redis: Redis = connect_sync(settings.redis_url)
        self._environment = {
            **{name: value for name, value in os.environ.items() if not name.startswith("XR_")},
            **variables,
        }
        self._log = (settings.home.parent / "processes.log").open("wb")
        self._agents = self._start("agents", *get_args(AgentName))
        self._coordinators = self._start("tests.integration.broker.coordinating", piped=True)

    def _start(self, *arguments: str, piped: bool = False) -> subprocess.Popen[bytes]:
        return subprocess.Popen(
            [sys.executable, "-m", *arguments], cwd=ROOT, env=self._environment, stderr=self._log,
            stdin=subprocess.PIPE if piped else subprocess.DEVNULL,
            stdout=subprocess.PIPE if piped else self._log, bufsize=0,
        )  # fmt: skip

    def close(self) -> None:
        for process in (self._agents, self._coordinators):
            process.terminate()
            process.wait(20)
            for pipe in filter(None, (process.stdin, process.stdout)):
                pipe.close()
        self.redis.close()
        self._log.close()

    def submit(self, knobs: dict[str, Any] | None = None, **fields: Any) -> str:
        request = RunRequest(
            dataset="folder:pictures", split="all", knobs={**KNOBS, **(knobs or {})}, **fields
        )
        return submit_benchmark(self.redis, self.settings, request)

    def work_on(self, run_id: str, kill_when: Callable[[], bool] | None = None) -> bool:
        """Bring a run to its end, or kill its coordinator; whether the run is finished."""
        assert self._coordinators.stdin is not None
        assert self._coordinators.stdout is not None
        self._coordinators.stdin.write(f"{run_id}\n".encode())
        process_id = int(self._coordinators.stdout.readline())
        while kill_when is not None and not self._has_ended():
            if kill_when():
                with contextlib.suppress(ProcessLookupError):  # it was faster
                    os.kill(process_id, signal.SIGKILL)
                break
        assert self._coordinators.stdout.readline() == b"ended\n"
        status = read_json(self.settings.runs_folder, run_id, "status.json") or {}
        return bool(status["state"] == "finished")

    def _has_ended(self) -> bool:
        """Whether the coordinator has ended, after a millisecond."""
        readable, _, _ = select.select([self._coordinators.stdout], [], [], 0.001)
        return bool(readable)

    def run(self, knobs: dict[str, Any] | None = None, **fields: Any) -> str:
        run_id = self.submit(knobs, **fields)
        assert self.work_on(run_id), (self.folder(run_id) / "log.txt").read_text()
        return run_id

    def folder(self, run_id: str) -> Path:
        return run_folder(self.settings.runs_folder, run_id)

    def files(self, run_id: str) -> dict[str, bytes]:
        return {name: (self.folder(run_id) / name).read_bytes() for name in RUN_FILES}

    def states(self, run_id: str) -> dict[str, bytes]:
        states = read_states(self.settings.runs_folder, run_id)
        return {query_id: encode_state(state) for query_id, state in states.items()}


@pytest.fixture(scope="module")
def workplace(
    redis_server: PrivateRedis, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Workplace]:
    folder = tmp_path_factory.mktemp("run-studies")
    _write_data(folder / "data" / "pictures")
    (folder / "zero-cost.toml").write_text(PROFILE)
    variables = {
        "XR_REDIS_URL": redis_server.url,
        "XR_HOME": str(folder / "home"),
        "XR_DATA_ROOT": str(folder / "data"),
        "XR_PROFILE": str(folder / "zero-cost.toml"),
        "XR_VERIFY_CHUNK": "7",
        "XR_WINDOW": "4",
    }
    workplace = Workplace(load_settings(variables), variables)
    yield workplace
    workplace.close()


@pytest.fixture(scope="module")
def recorded(workplace: Workplace) -> str:
    """A finished run in which everything is verified and compared."""
    return workplace.run()


def test_a_run_with_dialogues_and_text_alone_ends_with_all_its_results(
    workplace: Workplace, recorded: str
) -> None:
    states = read_states(workplace.settings.runs_folder, recorded)
    assert len(states) == SINGLE_QUERIES + DIALOGUES * ROUNDS
    assert all(state.status == "ok" for state in states.values())
    assert states["q3"].comparisons is None, "without a reference there is nothing to compare"
    assert states["q0"].comparisons is not None
    metrics = read_json(workplace.settings.runs_folder, recorded, "metrics.json") or {}
    assert {"coarse", "verified", "compared"} <= set(metrics["methods"])


def test_a_replay_of_nothing_changed_has_the_files_of_the_live_run(
    workplace: Workplace, recorded: str
) -> None:
    report = replay_run(workplace.settings, recorded, {})
    assert report.coverage == 1
    assert workplace.files(report.id) == workplace.files(recorded)
    assert workplace.states(report.id) == workplace.states(recorded)
    manifest = read_json(workplace.settings.runs_folder, report.id, "manifest.json") or {}
    assert manifest["replayed"] == {
        "run": recorded, "after": "imagination", "changed": {}, "coverage": 1.0,
    }  # fmt: skip
    assert replay_run(workplace.settings, report.run_folder, {}).coverage == 1
    kept, copied = (workplace.folder(run_id) / "prompts" for run_id in (recorded, report.id))
    assert contents(copied) == contents(kept)
    assert (kept / "imagine_text.toml").is_file()


def test_a_replay_under_other_knobs_is_the_live_run_with_them(
    workplace: Workplace, recorded: str
) -> None:
    changed = {
        "fusion": "sum", "text_weight": 0.4, "top_k": 6, "num_questions": 1, "rank_depth": 12,
        "visual_weight": 0.8, "compare_top": 3, "rrf_k": 9,
    }  # fmt: skip
    report = replay_run(workplace.settings, recorded, changed)
    assert set(report.changed) == set(changed)
    live = workplace.run(changed)
    assert report.coverage < 1, "a shallow record does not hold every candidate"
    covered = replay_run(workplace.settings, workplace.run({"top_k": 40, "rank_depth": 40,
        "compare_top": 40}), changed)  # fmt: skip
    assert covered.coverage == 1
    assert workplace.files(covered.id) == workplace.files(live)
    assert workplace.states(covered.id) == workplace.states(live)


def test_a_sweep_prints_what_replays_find(workplace: Workplace, recorded: str) -> None:
    grid = Grid(("rrf", "none"), (0.15, 0.9), (1, 2), (5, 30), ())
    report = sweep_run(workplace.settings, recorded, grid)
    assert len(report.rows) == 16
    row = next(
        row
        for row in report.rows
        if (row["fusion"], row["text_weight"], row["num_questions"], row["top_k"])
        == ("none", 0.9, 1, 5)
    )
    changed = {"text_weight": 0.9, "num_questions": 1, "top_k": 5, "fusion": "none",
        "retrieve_texts": ["aug"], "stages": ["coarse", "verify"]}  # fmt: skip
    slow = replay_run(workplace.settings, recorded, changed)
    found = {name: value for name, value in row.items() if name.startswith("verified.")}
    assert found == {f"verified.{name}": v for name, v in slow.metrics["verified"].items()}
    assert row["coverage"] == slow.coverage


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"num_questions": 5}, "num_questions is 5: the recorded run has 2"),
        ({"topk": 5}, "topk"),
    ],
)
def test_a_replay_beyond_the_record_is_refused_and_leaves_nothing(
    workplace: Workplace, recorded: str, changed: dict[str, Any], message: str
) -> None:
    before = sorted(workplace.settings.runs_folder.rglob("*"))
    with pytest.raises(ConfigurationError, match=message):
        replay_run(workplace.settings, recorded, changed)
    assert sorted(workplace.settings.runs_folder.rglob("*")) == before


@pytest.fixture(scope="module")
def narrow(workplace: Workplace) -> str:
    """A run that verifies and compares few candidates."""
    return workplace.run(NARROW)


@pytest.mark.parametrize("skip_stages", [1, 2, 3, 4])
def test_a_run_that_restores_another_takes_its_steps_over(
    workplace: Workplace, recorded: str, narrow: str, skip_stages: int
) -> None:
    run_id = workplace.run(NARROW, restore=recorded, skip_stages=skip_stages)
    assert workplace.files(run_id) == workplace.files(narrow)
    assert workplace.states(run_id) == workplace.states(narrow)
    manifest = read_json(workplace.settings.runs_folder, run_id, "manifest.json") or {}
    assert manifest["restored"] == {"run": recorded, "skip_stages": skip_stages}


def test_a_restored_run_asks_the_agents_for_what_the_record_does_not_hold(
    workplace: Workplace, recorded: str
) -> None:
    shallow = workplace.run({"top_k": 4, "compare_top": 2}, limit=9)
    run_id = workplace.run(restore=shallow, skip_stages=4)
    assert workplace.states(run_id) == workplace.states(recorded)


@pytest.mark.parametrize(
    ("fields", "knobs", "message"),
    [
        ({"restore": "", "skip_stages": 2}, {}, "name a run"),
        ({"skip_stages": 5}, {}, "how many of its steps"),
        ({"restore": "a~b", "skip_stages": 1}, {}, "no run a~b"),
        ({"skip_stages": 2}, {"text_weight": 0.9}, "text_weight is 0.9: after ranking"),
        ({"skip_stages": 3}, {"num_questions": 4}, "num_questions is 4"),
    ],
)
def test_what_cannot_be_restored_is_refused_before_anything_is_queued(
    workplace: Workplace,
    recorded: str,
    fields: dict[str, Any],
    knobs: dict[str, Any],
    message: str,
) -> None:
    with pytest.raises(ConfigurationError, match=message):
        workplace.submit(knobs, **{"restore": recorded, **fields})


def test_a_record_of_other_models_is_not_restored(workplace: Workplace, recorded: str) -> None:
    # Given a copy of the run whose manifest names another proposer
    copy = workplace.folder(recorded).with_name("copy-of-it")
    shutil.copytree(workplace.folder(recorded), copy)
    manifest = json.loads((copy / "manifest.json").read_text())
    manifest["agents"]["question"]["checkpoint"] = "another"
    (copy / "manifest.json").write_text(json.dumps(manifest))
    copied = f"{copy.parent.name}~{copy.name}"
    # Then its imagination and ranking can be taken over, its propositions cannot
    workplace.run(restore=copied, skip_stages=2)
    refused = workplace.submit(restore=copied, skip_stages=3)
    assert not workplace.work_on(refused)
    status = read_json(workplace.settings.runs_folder, refused, "status.json") or {}
    assert status["state"] == "failed"
    assert "another question agent: checkpoint was 'another'" in status["error"]


def test_two_runs_are_compared_query_by_query(workplace: Workplace, recorded: str) -> None:
    same = diff_runs(workplace.settings, recorded, replay_run(workplace.settings, recorded, {}).id)
    assert same.identical
    assert not same.gained
    assert not same.lost
    assert all(name.startswith("replayed") for name in same.manifest)
    assert all(paired.p_sign == 1 for paired in same.paired.values())

    other = replay_run(workplace.settings, recorded, {"text_weight": 1.0, "scoring": "soft"}).id
    found = diff_runs(workplace.settings, recorded, other, k=10)
    assert found.manifest["knobs.text_weight"] == (0.15, 1.0)
    assert not found.identical
    assert "query q0, rank" in found.first_difference
    paired = found.paired["recall@10"]
    assert (len(found.gained), len(found.lost)) == (paired.better, paired.worse)
    assert paired.difference == pytest.approx(paired.second - paired.first)
    assert paired.low <= paired.difference <= paired.high
    metrics = read_json(workplace.settings.runs_folder, other, "metrics.json") or {}
    assert paired.second == metrics["methods"]["compared"]["recall@10"]
    with pytest.raises(ConfigurationError, match="no run id"):
        diff_runs(workplace.settings, recorded, "nothing")


def test_the_commands_replay_sweep_and_compare(
    workplace: Workplace,
    recorded: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    for name, value in workplace.variables.items():
        monkeypatch.setenv(name, value)

    def xr(*arguments: str, status: int = 0) -> str:
        assert run(arguments) == status, capsys.readouterr().err
        return capsys.readouterr().out

    folder = str(workplace.folder(recorded))
    replayed = json.loads(xr("runs", "replay", folder, "--top-k", "6", "--json"))
    assert replayed["changed"] == {"top_k": [30, 6]}
    assert replayed["replayed"] == recorded
    assert "num_questions: 2 -> 1" in xr("runs", "replay", recorded, "--knob", "num_questions=1")

    compared = json.loads(xr("runs", "diff", recorded, replayed["id"], "--json", "--k", "5"))
    assert compared["manifest"]["knobs.top_k"] == [30, 6]
    assert "knobs.top_k: 30 -> 6" in xr("runs", "diff", recorded, replayed["id"])

    study = ("sweep", recorded, "--fusion", "rrf,none", "--text-weight", "0,0.5", "--out")
    shown = xr(*study, str(tmp_path / "study"), "--num-questions", "1..2")
    assert len(shown.splitlines()) == 2 + 1 + 8
    assert (tmp_path / "study/sweep.txt").read_text() == shown
    with (tmp_path / "study/sweep.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [(row["fusion"], row["num_questions"]) for row in rows[:4]] == [
        ("rrf", "1"), ("rrf", "2"), ("none", "1"), ("none", "2"),
    ]  # fmt: skip
    stored = json.loads((tmp_path / "study/sweep.json").read_text())
    assert [row["verified.recall@5"] for row in stored["rows"]] == [
        float(row["verified.recall@5"]) for row in rows
    ]
    low, high = (float(rows[0][f"verified.recall@50.{end}"]) for end in ("low", "high"))
    assert low <= float(rows[0]["verified.recall@50"]) <= high

    for wrong in (("--text-weight", "much"), ("--fusion", "max"), ("--top-k", "1..x")):
        xr("sweep", recorded, *wrong, status=2)
    xr("runs", "replay", "no~such-run", status=2)
    xr("runs", "replay", recorded, "--num-questions", "9", status=2)


def test_the_sign_test_is_the_binomial_one() -> None:
    assert sign_test(0, 0) == 1
    assert sign_test(5, 5) == 1
    assert sign_test(8, 2) == sign_test(2, 8) == pytest.approx(2 * (1 + 10 + 45) / 1024)
    assert sign_test(400, 600) == pytest.approx(2.7e-10, rel=0.1)


@pytest.mark.slow
def test_a_run_killed_at_twenty_random_points_ends_with_the_same_files(
    workplace: Workplace, recorded: str
) -> None:
    draw = random.Random(20)
    expected, states = workplace.files(recorded), workplace.states(recorded)
    whole = (workplace.folder(recorded) / "states.log").stat().st_size
    kills: Counter[str] = Counter()
    while kills.total() < KILLS:
        # Given an image database that has to be built anew, and a run of it
        shutil.rmtree(workplace.settings.image_db_folder)
        run_id = workplace.submit()
        folder, parts = workplace.folder(run_id), workplace.settings.image_db_folder

        # When its coordinator is killed while it builds, answers and writes results
        def built(files: int, parts: Path = parts) -> bool:
            return sum(1 for _ in parts.glob("*/parts/*")) >= files

        def answered(size: int, log: Path = folder / "states.log") -> bool:
            return log.exists() and log.stat().st_size >= size

        def written(name: str, folder: Path = folder) -> bool:
            return (folder / name).exists()

        moments = [partial(built, draw.randint(1, 3)) for _ in range(2)]
        moments += [partial(answered, size) for size in sorted(draw.sample(range(whole), 4))]
        moments += [partial(written, draw.choice(RUN_FILES))]
        for moment in moments:
            if workplace.work_on(run_id, kill_when=moment):
                break  # it was over before the murderer came
            kills[_done(workplace, run_id)] += 1

        # Then, left alone, it ends with the very same files
        assert workplace.work_on(run_id)
        assert workplace.files(run_id) == expected
        assert workplace.states(run_id) == states
    assert set(kills) == {"building", "answering", "evaluating"}, kills


def _done(workplace: Workplace, run_id: str) -> str:
    """What the coordinator of an unfinished run was doing last, by what is on the disk."""
    if not any(workplace.settings.image_db_folder.glob("*/manifest.json")):
        return "building"
    answered = len(workplace.states(run_id))
    return "answering" if answered < SINGLE_QUERIES + DIALOGUES * ROUNDS else "evaluating"
