"""Every data set, each split, from its files to every artefact of a run: over the real queues."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import get_args

import pytest
from redis import Redis

from agents.prompting import SKILLS, load_prompts
from broker.agents_roster import prompt_digests
from broker.rq_worker import connect_sync
from broker.submission import RunRequest, RunView, benchmark_status, submit_benchmark
from shared.contracts.skills import AgentName
from shared.datasets import Benchmark, load_dataset
from shared.redis_server import PrivateRedis
from shared.settings import Settings, load_settings
from shared.submission import check_file, metrics_of
from tests.miniatures import WRITERS, Miniature

ROOT = Path(__file__).resolve().parents[2]
OVER = ("finished", "failed", "cancelled")
_WITHIN_S = 60.0
_ROLES = (
    "captioner", "imaginer_text", "imaginer_image", "proposer", "evaluator_image",
    "evaluator_caption",
)  # fmt: skip
_PROFILE = "\n".join(
    [
        '[models.language]\nbackend = "agents.backends.zero_cost:language_model"',
        '[models.clip]\nbackend = "agents.backends.zero_cost:embedding_model"',
        "[roles]",
        *(f'{role} = "language"' for role in _ROLES),
        'clip = "clip"',
    ]
)
SPLITS = [
    ("circo", "val"), ("circo", "test"), ("cirr", "val"), ("cirr", "test1"),
    ("fashioniq-dress", "val"), ("fashioniq-shirt", "val"), ("fashioniq-toptee", "val"),
    ("flickr30k", "test"), ("mscoco", "test"), ("visdial", "val"), ("folder:my pictures", "all"),
]  # fmt: skip
METRICS = {
    "circo": {"recall@5", "map@5", "map@50"},
    "cirr": {"recall@1", "recall@50", "recall_subset@1", "recall_subset@3"},
    "fashioniq": {"recall@10", "recall@50"},
    "flickr30k": {"recall@1", "recall@10"},
    "mscoco": {"recall@1", "recall@10"},
    "visdial": {"hits@10", "round_hits@10"},
    "folder": {"recall@1", "map@5", "recall_subset@1"},
}
"""By the beginning of a data set's name, some metrics of every stage when there is ground truth."""
KNOBS = {"top_k": 6, "stages": ["coarse", "verify", "compare"]}
STAGES = {"coarse", "verified", "compared"}


@pytest.fixture(scope="module")
def settings(
    redis_server: PrivateRedis, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Settings]:
    """A workplace with one agent process and one coordinator, for all tests of this module."""
    folder = tmp_path_factory.mktemp("every-dataset")
    (folder / "zero-cost.toml").write_text(_PROFILE)
    (folder / "data").mkdir()
    variables = {
        "XR_REDIS_URL": redis_server.url,
        "XR_HOME": str(folder / "home"),
        "XR_DATA_ROOT": str(folder / "data"),
        "XR_PROFILE": str(folder / "zero-cost.toml"),
        "XR_VERIFY_CHUNK": "4",
    }
    plain = {name: value for name, value in os.environ.items() if not name.startswith("XR_")}
    log = (folder / "processes.log").open("wb")
    processes = [
        subprocess.Popen(
            [sys.executable, "-m", *arguments], cwd=ROOT, env={**plain, **variables},
            stdout=log, stderr=log,
        )
        for arguments in (["agents", *get_args(AgentName)], ["broker"])
    ]  # fmt: skip
    yield load_settings(variables)
    for process in processes:
        process.terminate()
    for process in processes:
        try:
            process.wait(20)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
    log.close()


@pytest.fixture(scope="module")
def redis(settings: Settings) -> Iterator[Redis]:
    client = connect_sync(settings.redis_url)
    yield client
    client.close()


def _ended(redis: Redis, settings: Settings, run_id: str) -> RunView:
    """The run when it is over; there is a deadline, not a pause."""
    deadline = time.monotonic() + _WITHIN_S
    while (view := benchmark_status(redis, settings, run_id)).state not in OVER:
        if view.error or time.monotonic() > deadline:  # an error here would be tried again
            log = (settings.home.parent / "processes.log").read_text(errors="replace")
            pytest.fail(f"not over within {_WITHIN_S} s: {view.error or view}\n{log[-3000:]}")
        time.sleep(0.05)
    return view


@pytest.mark.parametrize(("dataset", "split"), SPLITS)
def test_a_data_set_runs_from_its_files_to_every_artefact(
    dataset: str, split: str, settings: Settings, redis: Redis
) -> None:
    # Given the data set in its own layout, with a broken image and a missing file
    miniature = WRITERS[dataset](settings.data_root)
    benchmark = load_dataset(dataset, split, settings.data_root)

    # When a run of it goes over the queues
    request = RunRequest(dataset=dataset, split=split, knobs=KNOBS)
    view = _ended(redis, settings, submit_benchmark(redis, settings, request))

    # Then every query is accounted for, and only those that cannot be answered have failed
    assert view.state == "finished", view.error
    _check_counts(view, miniature, split)
    folder = Path(view.run_folder)
    _check_predictions(folder, benchmark, miniature, split)
    _check_metrics(folder, view, benchmark)
    _check_manifest(folder, miniature, split)
    log = (folder / "log.txt").read_text(encoding="utf-8")
    assert miniature.broken[split] in log, "the broken image is named"
    assert miniature.missing[split] in log, "the missing image is named"
    _check_submissions(folder, benchmark)


def _check_counts(view: RunView, miniature: Miniature, split: str) -> None:
    failing = len(miniature.failing[split])
    assert view.counts["queries"] == miniature.queries[split]
    assert view.counts["failed"] == failing
    assert view.counts["answered"] == miniature.queries[split] - failing
    assert view.counts["missing"] == 0


def _check_predictions(
    folder: Path, benchmark: Benchmark, miniature: Miniature, split: str
) -> None:
    text = (folder / "predictions.jsonl").read_text(encoding="utf-8")
    lines = [json.loads(line) for line in text.splitlines()]
    assert [line["query_id"] for line in lines] == [q.query_id for q in benchmark.queries]
    searched = {image_id for image_id, _ in benchmark.images[: benchmark.searchable]}
    for line, query in zip(lines, benchmark.queries, strict=True):
        if query.query_id in miniature.failing[split]:
            assert line["status"] == "failed"
            assert line["reason"]
            continue
        ranking = line["ranking"]
        assert len(set(ranking)) == len(ranking)
        assert set(ranking) <= searched
        reference_is_out = query.reference_id not in ranking
        assert reference_is_out or not benchmark.protocol.exclude_reference


def _check_metrics(folder: Path, view: RunView, benchmark: Benchmark) -> None:
    metrics = json.loads((folder / "metrics.json").read_text())
    expected = next(names for start, names in METRICS.items() if view.dataset.startswith(start))
    if any(query.target_ids for query in benchmark.queries):
        assert set(metrics["methods"]) >= STAGES
        for stage in STAGES:
            assert set(metrics["methods"][stage]) >= expected
    else:  # a test split: nothing to score, and nothing made up
        assert not any(metrics["methods"].values())
        assert view.counts["without_ground_truth"] == len(benchmark.queries)
    rounds = {query.round for query in benchmark.queries} - {None}
    assert len(metrics["rounds"].get("verified", ())) == len(rounds)
    assert (folder / "metrics.txt").stat().st_size > 0


def _check_manifest(folder: Path, miniature: Miniature, split: str) -> None:
    manifest = json.loads((folder / "manifest.json").read_text())
    assert manifest["gallery"]["searchable"] == miniature.gallery[split]
    assert manifest["gallery"]["failed_images"] == 2
    if not miniature.dataset.startswith("folder:"):
        deviations = " ".join(manifest["protocol"]["deviations"])
        assert "instead of the official" in deviations, "a miniature is not the official set"
    prompts = load_prompts(str(folder / "prompts"))
    digests = prompt_digests(manifest["agents"])
    for skill in SKILLS:
        assert prompts.skill_digest(skill) == digests[skill], "the words are those of the digest"


def _check_submissions(folder: Path, benchmark: Benchmark) -> None:
    """One file per stage and metric for the servers of CIRR and CIRCO; none for the others."""
    files = sorted(folder.glob("submissions/*.json"))
    kind = benchmark.protocol.submission
    if not kind:
        assert not files
        return
    metrics = metrics_of(kind)
    assert {path.stem for path in files} >= {f"{s}_{m}" for s in STAGES for m in metrics}
    for path in files:
        found = check_file(path, benchmark)
        assert not found.problems
        assert found.queries == len(benchmark.queries)
    _check_that_a_wrong_one_is_refused(files[0], benchmark)


def _check_that_a_wrong_one_is_refused(path: Path, benchmark: Benchmark) -> None:
    document = json.loads(path.read_text())
    left_out = benchmark.queries[0].query_id
    del document[left_out]
    wrong = path.with_name("wrong.json")
    wrong.write_text(json.dumps(document))
    (problem,) = check_file(wrong, benchmark).problems
    assert f"missing: {left_out}" in problem
