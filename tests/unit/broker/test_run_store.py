"""A run's folder: what survives a kill, and what a resumed run makes of it."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path

import pytest

from broker.agents_client import AgentsClient
from broker.coordinator import answer_query
from broker.evaluation import evaluate_run, predictions, rank_run
from broker.query_state import QueryState
from broker.query_window import run_queries
from broker.results_table import table
from broker.run_store import (
    METRICS,
    PREDICTIONS,
    STATES,
    RunRequest,
    RunStore,
    create_run,
    list_runs,
    read_json,
    read_states,
    run_folder,
)
from shared.datasets import Benchmark, Protocol, Query
from shared.errors import ConfigurationError, PermanentError
from shared.knobs import Knobs
from shared.settings import Settings
from tests.unit.broker.fake_agents import FakeAgents
from tests.unit.broker.fake_bus import FakeBus
from tests.unit.broker.test_coordinator import space

KNOBS = Knobs(top_k=10)
REQUEST = RunRequest(dataset="folder:my pictures", split="val", name="first try")
QUERIES = tuple(
    Query(
        query_id=f"q{n}",
        reference_id=str(n),
        modification_text=text,
        target_ids=(str(n + 1),),
        tags={"level": str(n % 2)},
    )
    for n, text in enumerate(["red", "", "blue", "refuse this"])
)
BENCHMARK = Benchmark(
    name="own", split="val", images=(), searchable=60, queries=QUERIES,
    protocol=Protocol(exclude_reference=True, recall_ks=(1, 10), map_ks=(5,)),
)  # fmt: skip


async def work(runs_folder: Path, run_id: str) -> tuple[bytes, bytes, int]:
    """Bring the run to its end; predictions, metrics, and how many queries were asked."""
    store = RunStore(runs_folder, run_id)
    finished = store.finished_ids()
    waiting = [query for query in QUERIES if query.query_id not in finished]
    bus = FakeBus(FakeAgents())
    async with AgentsClient(bus, run_id, 1, Settings()) as agents:
        await run_queries(
            waiting, 2, lambda query: answer_query(query, agents.ask, space(), KNOBS),
            store.record, lambda state: None, asyncio.Event(),
        )  # fmt: skip
    rankings = rank_run(store.states, KNOBS)
    evaluation = evaluate_run(BENCHMARK, QUERIES, store.states, rankings, KNOBS, str)
    lines = predictions(QUERIES, store.states, rankings, KNOBS, str)
    store.finish(lines, evaluation, table("own", evaluation))
    await store.close()
    asked = len({request.query_id for request in bus.requests})
    folder = store.folder
    return (folder / PREDICTIONS).read_bytes(), (folder / METRICS).read_bytes(), asked


async def test_a_run_cut_off_at_any_byte_ends_with_the_same_predictions(tmp_path: Path) -> None:
    run_id = create_run(tmp_path, REQUEST, "ViT-B/32")
    predicted, measured, asked = await work(tmp_path, run_id)
    assert asked == 3, "the query without text is failed without asking"
    log = run_folder(tmp_path, run_id) / STATES
    content = log.read_bytes()
    for size in [*range(0, len(content), 211), *range(len(content) - 20, len(content) + 1)]:
        log.write_bytes(content[:size])
        resumed_predictions, resumed_metrics, asked_again = await work(tmp_path, run_id)
        assert resumed_predictions == predicted
        assert resumed_metrics == measured
        if size == len(content):
            assert asked_again == 0


async def test_failed_queries_are_listed_and_count_as_misses(tmp_path: Path) -> None:
    run_id = create_run(tmp_path, REQUEST, "clip")
    await work(tmp_path, run_id)
    metrics = read_json(tmp_path, run_id, METRICS)
    assert metrics is not None
    assert metrics["failures"] == {
        "q1": "the query has no modification text",
        "q3": "the model refuses",
    }
    assert metrics["counts"]["queries"] == 4
    assert metrics["counts"]["failed"] == 2
    assert metrics["methods"]["verified"]["recall@1"] in (0.0, 0.25, 0.5)
    assert set(metrics["by_tag"]["level"]) == {"0", "1"}
    folder = run_folder(tmp_path, run_id)
    lines = [json.loads(line) for line in (folder / PREDICTIONS).read_text().splitlines()]
    assert [line["query_id"] for line in lines] == ["q0", "q1", "q2", "q3"]
    assert [line["status"] for line in lines] == ["ok", "failed", "ok", "failed"]
    assert len(lines[0]["ranking"]) == 50
    written = (folder / PREDICTIONS).stat().st_size + (folder / STATES).stat().st_size
    assert written / len(QUERIES) < 20_000


async def test_a_query_nobody_answered_is_asked_again_by_the_resumed_run(tmp_path: Path) -> None:
    run_id = create_run(tmp_path, REQUEST, "clip")
    store = RunStore(tmp_path, run_id)
    await store.record(
        QueryState(query_id="q0", status="failed", reason="no answer", unanswered=True)
    )
    await store.record(QueryState(query_id="q1", status="failed", reason="no text"))
    await store.close()
    reopened = RunStore(tmp_path, run_id)
    assert reopened.finished_ids() == {"q1"}
    await reopened.record(QueryState(query_id="q0", status="ok"))
    await reopened.close()
    assert read_states(tmp_path, run_id)["q0"].status == "ok"


async def test_a_resumed_run_must_be_the_same_experiment(tmp_path: Path) -> None:
    run_id = create_run(tmp_path, REQUEST, "clip")
    store = RunStore(tmp_path, run_id)
    store.keep_manifest({"knobs": {"top_k": 10}, "commit": "a"}, ("knobs",))
    await store.record(QueryState(query_id="q0", status="ok"))
    store.keep_manifest({"knobs": {"top_k": 10}, "commit": "b"}, ("knobs",))
    with pytest.raises(PermanentError, match="began with other knobs"):
        store.keep_manifest({"knobs": {"top_k": 20}, "commit": "a"}, ("knobs",))
    await store.close()


def test_run_ids_are_safe_in_urls_and_lead_to_their_folders_only(tmp_path: Path) -> None:
    runs = tmp_path / "runs"
    run_id = create_run(runs, REQUEST, "laion/CLIP ViT-B/32")
    assert run_id.startswith("folder-my-pictures_val~laion-CLIP-ViT-B-32-first-try_")
    assert run_folder(runs, run_id).is_relative_to(runs)
    assert list_runs(runs) == [run_id]
    (tmp_path / "secret").mkdir()
    (tmp_path / "secret" / "request.json").write_text("{}")
    for wrong in ("..~secret", "../secret", "a~../secret", run_id + "/..", "", "a~b"):
        with pytest.raises(ConfigurationError):
            run_folder(runs, wrong)
