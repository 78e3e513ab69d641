"""TREC files: read by ir_measures, they give the numbers our own metrics give."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import ir_measures
import pytest
from ir_measures import AP, R

from shared.datasets import Protocol, Query
from shared.metrics import evaluate
from shared.submission.trec import escaped, qrels_lines, ranked, run_lines

GALLERY = [f"image {n}%" for n in range(40)]


def _query(n: int, targets: int, draw: random.Random) -> Query:
    return Query(
        query_id=f"query {n}", reference_id=None, modification_text="t",
        target_ids=tuple(draw.sample(GALLERY, targets)),
    )  # fmt: skip


def read(qrels: Path, run: Path) -> tuple[list[Any], list[Any]]:
    """Both files as ir_measures reads them."""
    judged, ranking = ir_measures.read_trec_qrels, ir_measures.read_trec_run
    return list(judged(str(qrels))), list(ranking(str(run)))  # type: ignore[no-untyped-call]


def test_ir_measures_reads_the_same_recall_and_average_precision(tmp_path: Path) -> None:
    # Given queries of one to four targets with odd ids, one of which has failed
    draw = random.Random(11)
    queries = [_query(n, 1 + n % 4, draw) for n in range(30)]
    rankings = {query.query_id: draw.sample(GALLERY, 30) for query in queries[1:]}
    # When run and judgements are written and read
    run, qrels = tmp_path / "run.trec", tmp_path / "qrels.trec"
    run.write_text("".join(run_lines(rankings.items(), "my run")))
    qrels.write_text("".join(qrels_lines(queries)))
    measured = ir_measures.calc_aggregate(
        [AP @ 10, ir_measures.Success @ 5],
        *read(qrels, run),
    )
    # Then they agree where the definitions do: theirs divides AP by all targets, at most 4 here
    protocol = Protocol(exclude_reference=False, recall_ks=(5,), map_ks=(10,))
    ours = evaluate({**rankings, "query 0": None}, queries, protocol)["metrics"]
    assert measured[AP @ 10] == pytest.approx(ours["map@10"], abs=1e-4)
    assert measured[ir_measures.Success @ 5] == pytest.approx(ours["recall@5"], abs=1e-4)


def test_recall_of_the_first_target_alone_is_grade_2(tmp_path: Path) -> None:
    draw = random.Random(5)
    queries = [_query(n, 3, draw) for n in range(20)]
    rankings = {query.query_id: draw.sample(GALLERY, 30) for query in queries}
    run, qrels = tmp_path / "run.trec", tmp_path / "qrels.trec"
    run.write_text("".join(run_lines(rankings.items(), "mine")))
    qrels.write_text("".join(qrels_lines(queries, first_target_alone=True)))
    measured = ir_measures.calc_aggregate(
        [R(rel=2) @ 10],
        *read(qrels, run),
    )
    protocol = Protocol(exclude_reference=False, recall_ks=(10,), recall_targets="first")
    ours = evaluate(rankings, queries, protocol)["metrics"]
    assert measured[R(rel=2) @ 10] == pytest.approx(ours["recall@10"], abs=1e-4)


def test_lines_have_six_and_four_fields_whatever_the_ids_hold() -> None:
    lines = list(run_lines([("a b", ["x\ty", "50%"])], " my  run "))
    assert lines == ["a%20b Q0 x%09y 1 2 my-run\n", "a%20b Q0 50%25 2 1 my-run\n"]
    query = Query(
        query_id="a b", reference_id=None, modification_text="t", target_ids=("x y", "z", "x y")
    )
    assert list(qrels_lines([query], True)) == ["a%20b 0 x%20y 2\n", "a%20b 0 z 1\n"]
    assert escaped("dev-12-img0") == "dev-12-img0"


def test_only_queries_with_a_ranking_are_in_a_run() -> None:
    lines: list[dict[str, object]] = [
        {"query_id": "1", "status": "ok", "ranking": ["a"]},
        {"query_id": "2", "status": "failed", "reason": "no text"},
    ]
    assert list(ranked(lines)) == [("1", ["a"])]
