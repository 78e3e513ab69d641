"""What a run writes for the servers, what it says about it, and the table of its metrics."""

from __future__ import annotations

import json
from array import array
from pathlib import Path

import pytest

from broker.evaluation import RunRankings, evaluate_run
from broker.query_state import QueryState
from broker.results_table import table
from broker.run_store import SUBMISSIONS, RunRequest, RunStore, create_run
from broker.run_submissions import submissions_of
from broker.stages import Rankings
from shared.datasets import Benchmark, Protocol, Query
from shared.knobs import Knobs
from shared.metrics import evaluate
from shared.submission import check_content

GALLERY = [f"dev-{number}-img0" for number in range(60)]
SIZE = 4


def cirr(asked: int = SIZE, **protocol: object) -> Benchmark:
    """Query n has image n as its reference and image n + 1 as its target."""
    rules = {
        "exclude_reference": True,
        "recall_ks": (1, 5),
        "subset_ks": (1,),
        "submission": "cirr",
    }
    return Benchmark(
        name="CIRR", split="val", images=(), searchable=len(GALLERY),
        queries=tuple(
            Query(
                query_id=str(n), reference_id=GALLERY[n], modification_text="t",
                target_ids=(GALLERY[n + 1],), subset_ids=tuple(GALLERY[n + 1 : n + 6]),
                tags={"half": str(n % 2)}, aspects=("addition", "negation")[: n % 3],
            )
            for n in range(asked)
        ),
        protocol=Protocol(**{**rules, "submission": "cirr", **protocol}),  # type: ignore[arg-type]
    )  # fmt: skip


def ranked(n: int) -> Rankings:
    """The target is first when coarse, second when verified."""
    others = [row for row in range(len(GALLERY)) if row not in (n, n + 1)]
    return {
        "v1.hybrid": array("i", [n + 1, *others]),
        "coarse": array("i", [n + 1, *others]),
        "verified": array("i", [others[0], n + 1, *others[1:]]),
    }


def within(n: int) -> Rankings:
    rows = list(range(n + 1, n + 6))
    return {"v1.hybrid": array("i", rows), "coarse": array("i", rows), "verified": array("i", rows)}


def rankings(failed: int | None = None) -> RunRankings:
    answered = [n for n in range(SIZE) if n != failed]
    return RunRankings(
        {str(n): ranked(n) if n in answered else {} for n in range(SIZE)},
        {str(n): within(n) if n in answered else {} for n in range(SIZE)},
    )


def test_every_stage_and_metric_has_its_file_and_lists_have_none() -> None:
    found = submissions_of(cirr(), cirr().queries, rankings(), GALLERY, GALLERY.__getitem__)
    assert list(found.files) == [
        "coarse_recall.json", "coarse_recall_subset.json",
        "verified_recall.json", "verified_recall_subset.json",
    ]  # fmt: skip
    for content in found.files.values():
        assert check_content(content, cirr(), GALLERY) == ()
    assert found.files["coarse_recall.json"]["2"][0] == GALLERY[3]
    assert found.summary["files"] == list(found.files)
    assert found.summary["filled"] == {}


def test_a_failed_query_is_filled_and_said_in_the_table(tmp_path: Path) -> None:
    # Given a run in which query 3 failed
    benchmark, found = cirr(), rankings(failed=3)
    states = {
        str(n): QueryState(query_id=str(n), status="failed" if n == 3 else "ok", reason="no model")
        for n in range(SIZE)
    }
    knobs = Knobs()
    # When its results are written
    evaluation = evaluate_run(
        benchmark, benchmark.queries, states, found, knobs, GALLERY.__getitem__
    )
    submissions = submissions_of(benchmark, benchmark.queries, found, GALLERY, GALLERY.__getitem__)
    evaluation["submissions"] = submissions.summary
    shown = table("run", evaluation)
    store = RunStore(tmp_path, create_run(tmp_path, RunRequest(dataset="cirr", split="val"), "c"))
    store.finish([], evaluation, shown, submissions=submissions.files)
    # Then it counts as a miss, the server's file is whole, and the table says what stands in it
    assert evaluation["methods"]["coarse"] == {
        "recall@1": 0.75, "recall@5": 0.75, "recall_subset@1": 0.75,
    }  # fmt: skip
    written = json.loads((store.folder / SUBMISSIONS / "verified_recall.json").read_bytes())
    assert written["3"] == [name for name in GALLERY if name != GALLERY[3]][:50]
    assert "verified_recall.json: 1 failed queries are filled with the first images" in shown
    assert submissions.summary["filled"]["coarse_recall_subset.json"] == ("3",)


def test_a_run_of_some_queries_has_no_submission_and_says_so() -> None:
    benchmark = cirr()
    found = submissions_of(
        benchmark, benchmark.queries[:2], rankings(), GALLERY, GALLERY.__getitem__
    )
    assert found.files == {}
    assert found.summary["notes"] == ["no submission: only 2 of 4 queries"]
    elsewhere = cirr(submission="")
    nothing = submissions_of(elsewhere, elsewhere.queries, rankings(), GALLERY, str)
    assert (nothing.files, nothing.summary) == ({}, {})


def test_what_a_server_does_not_know_is_not_written_and_said() -> None:
    other = cirr(submission="circo")  # whose image ids are numbers
    found = submissions_of(other, other.queries, rankings(), GALLERY, GALLERY.__getitem__)
    assert found.files == {}
    assert "CIRCO's image ids are numbers" in found.summary["notes"][0]


def test_the_table_shows_intervals_ranks_protocol_deviations_and_every_breakdown() -> None:
    benchmark = cirr(deviations=("12 gallery images instead of the official 2,297",))
    states = {str(n): QueryState(query_id=str(n), status="ok") for n in range(SIZE)}
    knobs = Knobs(exclude_reference=False)
    evaluation = evaluate_run(
        benchmark, benchmark.queries, states, rankings(), knobs, GALLERY.__getitem__
    )
    shown = table("my run", evaluation)
    assert shown.startswith("my run\nprotocol: Recall@1,5")
    assert "deviation: 12 gallery images instead" in shown
    assert "deviation: exclude_reference is false" in shown
    for line, cells in {
        "XR: imagined and fused": ["100.00 ±0.00", " 1 ", "1.0 (4)"],
        "XR: verified": ["0.00 ±0.00", " 2 ", "2.0 (4)"],
    }.items():
        row = next(row for row in shown.splitlines() if row.strip().startswith(line))
        assert all(cell in row for cell in cells), row
    assert "by aspect" in shown
    assert "addition (2)" in shown
    assert "0 (2)" in shown
    assert "± half the width of the 95% interval" in shown
    assert set(evaluation["by_tag"]) == {"aspect", "half"}
    assert evaluation["intervals"]["verified"]["recall@5"] == [1.0, 1.0]


def test_the_table_has_the_rounds_of_a_dialogue() -> None:
    queries = tuple(
        Query(
            query_id=f"{d}/{n}", reference_id=None, modification_text="t", target_ids=("a",),
            dialogue_id=str(d), round=n,
        )
        for d in range(2)
        for n in range(2)
    )  # fmt: skip
    benchmark = Benchmark(
        name="VisDial", split="val", images=(), searchable=2, queries=queries,
        protocol=Protocol(exclude_reference=False, recall_ks=(), hits_ks=(1,)),
    )  # fmt: skip
    found = {
        query.query_id: {"coarse": array("i", [int(query.query_id != "1/1"), 0])}
        for query in queries
    }
    states = {query.query_id: QueryState(query_id=query.query_id, status="ok") for query in queries}
    evaluation = evaluate_run(
        benchmark, queries, states, RunRankings(found, {}), Knobs(stages=("coarse",)),
        ["a", "b"].__getitem__, resamples=0,
    )  # fmt: skip
    assert evaluation["methods"]["coarse"] == {"hits@1": 0.5, "round_hits@1": 0.5}
    shown = table("run", evaluation).splitlines()
    assert any("by round" in line for line in shown)
    rounds = [line.split() for line in shown if line.strip().startswith("round ")]
    assert rounds == [
        ["round", "0", "(2)", "0.00", "0.00"],
        ["round", "1", "(2)", "50.00", "50.00"],
    ]
    assert not any("±" in line for line in shown)


@pytest.mark.parametrize("queries", [1, 25_010])
def test_intervals_are_cheap_enough_for_the_largest_set(queries: int) -> None:
    asked = [
        Query(query_id=str(n), reference_id=None, modification_text="t", target_ids=("a",))
        for n in range(queries)
    ]
    found = {query.query_id: ["b", "a"] for query in asked}
    protocol = Protocol(exclude_reference=False, recall_ks=(1, 5, 10))
    assert evaluate(found, asked, protocol)["intervals"]["recall@5"] == [1.0, 1.0]
