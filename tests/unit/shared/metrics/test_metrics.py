"""Metrics by hand, and CIRCO's own sample submission as the golden case."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from shared.datasets import Protocol, Query
from shared.metrics import (
    average_precision_at_k,
    by_tag,
    evaluate,
    first_hit_rank,
    recall_at_k,
    recall_subset_at_k,
)

OFFICIAL = Path(
    os.environ.get("XR_OFFICIAL_DATA", Path(__file__).parents[5] / "shared" / "data")
).absolute()


def _query(query_id: str, *targets: str, subset: tuple[str, ...] = (), level: str = "") -> Query:
    return Query(
        query_id=query_id,
        reference_id=None,
        modification_text="t",
        target_ids=targets,
        subset_ids=subset,
        tags={"level": level} if level else {},
    )


def test_any_target_within_k_is_a_hit() -> None:
    ranking = ["a", "b", "c"]
    assert recall_at_k(ranking, ["c", "x"], 3) == 1.0
    assert recall_at_k(ranking, ["c", "x"], 2) == 0.0
    assert first_hit_rank(ranking, ["c", "b"]) == 2
    assert first_hit_rank(ranking, ["x"]) is None


def test_average_precision_by_hand() -> None:
    ranking = ["t1", "a", "t2", "b", "c"]
    assert average_precision_at_k(ranking, ["t1", "t2", "t3"], 5) == pytest.approx((1 + 2 / 3) / 3)
    # Three targets but K = 2: the best there is must be 1.
    assert average_precision_at_k(["t1", "t2"], ["t1", "t2", "t3"], 2) == 1.0
    assert average_precision_at_k(["a"], ["t1"], 5) == 0.0


def test_the_subset_metric_leaves_everybody_else_out() -> None:
    ranking = ["x", "y", "s2", "z", "t", "s1"]
    assert recall_subset_at_k(ranking, ["s1", "s2", "t"], ["t"], 2) == 1.0
    assert recall_subset_at_k(ranking, ["s1", "s2", "t"], ["t"], 1) == 0.0


def test_what_has_no_value_is_refused() -> None:
    with pytest.raises(ValueError, match="'a' stands twice"):
        average_precision_at_k(["a", "b", "a"], ["b"], 3)
    with pytest.raises(ValueError, match="'a' stands twice"):
        recall_at_k(["a", "a"], ["b"], 2)
    with pytest.raises(ValueError, match="no target"):
        recall_at_k(["a"], [], 1)
    with pytest.raises(ValueError, match="at least 1"):
        recall_at_k(["a"], ["a"], 0)
    with pytest.raises(ValueError, match="subset is empty"):
        recall_subset_at_k(["a"], [], ["a"], 1)


def test_failed_queries_are_misses_and_are_named() -> None:
    protocol = Protocol(exclude_reference=False, recall_ks=(1, 2), map_ks=(2,), subset_ks=(1,))
    queries = [
        _query("hit", "t", subset=("t", "s"), level="1"),
        _query("late", "t", subset=("t", "s"), level="2"),
        _query("failed", "t", subset=("t", "s"), level="2"),
        _query("absent", "t", subset=("t", "s"), level="2"),
    ]
    rankings = {"hit": ["t", "s"], "late": ["s", "t"], "failed": None}
    report = evaluate(rankings, queries, protocol)
    assert report["metrics"] == {
        "recall@1": 1 / 4, "recall@2": 2 / 4, "map@2": 1.5 / 4, "recall_subset@1": 1 / 4,
    }  # fmt: skip
    assert report["failed"] == ["failed", "absent"]
    assert report["rank"] == {"median": None, "mean": 1.5, "found": 2, "of": 4}
    levels = by_tag(rankings, queries, protocol, "level")
    assert list(levels) == ["1", "2"]
    assert levels["2"]["queries"] == 3
    assert levels["1"]["metrics"]["recall@1"] == 1.0


def test_subsets_may_have_rankings_of_their_own() -> None:
    protocol = Protocol(exclude_reference=True, recall_ks=(1,), subset_ks=(1,))
    queries = [_query("q", "t", subset=("t", "s"))]
    report = evaluate({"q": ["x"]}, queries, protocol, {"q": ["t", "s"]})
    assert report["metrics"] == {"recall@1": 0.0, "recall_subset@1": 1.0}


def test_queries_without_published_truth_are_not_scored() -> None:
    protocol = Protocol(exclude_reference=True, recall_ks=(1,))
    report = evaluate({"q": ["a"], "r": ["a"]}, [_query("q"), _query("r", "a")], protocol)
    assert (report["metrics"], report["unscored"]) == ({"recall@1": 1.0}, 1)
    assert evaluate({"q": ["a"]}, [_query("q")], protocol)["metrics"] == {}


def test_a_protocol_may_count_the_first_target_only() -> None:
    protocol = Protocol(
        exclude_reference=False, recall_ks=(1,), map_ks=(1,), recall_targets="first"
    )
    report = evaluate({"q": ["other"]}, [_query("q", "first", "other")], protocol)
    assert report["metrics"] == {"recall@1": 0.0, "map@1": 1.0}


def test_the_official_sample_submission_scores_as_published() -> None:
    submission = OFFICIAL / "CIRCO" / "submission_examples" / "submission_val.json"
    if not submission.exists():
        pytest.skip(f"the official CIRCO files are not in {OFFICIAL} (XR_OFFICIAL_DATA)")
    rankings = {
        query_id: [str(image_id) for image_id in images]
        for query_id, images in json.loads(submission.read_text()).items()
    }
    annotations = json.loads((OFFICIAL / "CIRCO" / "annotations" / "val.json").read_text())
    queries = [
        _query(str(entry["id"]), *(str(image_id) for image_id in entry["gt_img_ids"]))
        for entry in annotations
    ]
    protocol = Protocol(exclude_reference=False, recall_ks=(), map_ks=(5, 10, 25, 50))
    report = evaluate(rankings, queries, protocol)
    percent = {name: round(100 * value, 2) for name, value in report["metrics"].items()}
    assert percent == {"map@5": 0.49, "map@10": 0.52, "map@25": 0.54, "map@50": 0.60}
    assert report["failed"] == []
