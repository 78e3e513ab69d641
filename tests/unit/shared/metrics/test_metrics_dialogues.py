"""Hits@K by round, worked by hand, and CIRCO's breakdown by semantic aspect."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from shared.datasets import Protocol, Query
from shared.metrics import by_tag, evaluate, hits_by_round

PROTOCOL = Protocol(exclude_reference=False, recall_ks=(), hits_ks=(2,))


def _round(dialogue: str, number: int) -> Query:
    return Query(
        query_id=f"{dialogue}/{number}", reference_id=None, modification_text="t",
        target_ids=("t",), dialogue_id=dialogue, round=number,
    )  # fmt: skip


def test_a_dialogue_that_has_found_its_image_stays_found() -> None:
    # Given three dialogues of three rounds: found and lost again, found late, one that fails
    queries = [_round(dialogue, number) for dialogue in "abc" for number in range(3)]
    near, far = ["x", "t"], ["x", "y", "t"]
    rankings = {
        "a/0": near, "a/1": far, "a/2": far,
        "b/0": far, "b/1": far, "b/2": near,
        "c/0": None, "c/1": far,
    }  # fmt: skip
    report = evaluate(rankings, queries, PROTOCOL, resamples=100)
    # Then the cumulative value never falls, and the value of each round stands under its own name
    shown = [(entry["round"], entry["dialogues"], entry["metrics"]) for entry in report["rounds"]]
    assert shown == [
        (0, 3, {"hits@2": 1 / 3, "round_hits@2": 1 / 3}),
        (1, 3, {"hits@2": 1 / 3, "round_hits@2": 0.0}),
        (2, 3, {"hits@2": 2 / 3, "round_hits@2": 1 / 3}),
    ]
    assert report["metrics"] == {"hits@2": 2 / 3, "round_hits@2": 1 / 3}
    assert report["failed"] == ["c/0", "c/2"]
    assert set(report["intervals"]) == {"hits@2", "round_hits@2"}


@given(st.lists(st.lists(st.none() | st.integers(1, 20), min_size=4, max_size=4), min_size=1))
def test_cumulative_hits_are_the_best_rank_so_far(ranks: list[list[int | None]]) -> None:
    queries = [_round(str(d), n) for d in range(len(ranks)) for n in range(4)]
    by_query = {f"{d}/{n}": ranks[d][n] for d in range(len(ranks)) for n in range(4)}
    cumulative, alone = hits_by_round(by_query, queries, 10)
    for dialogue, of_rounds in enumerate(ranks):
        for number in range(4):
            best = min((rank for rank in of_rounds[: number + 1] if rank), default=99)
            assert cumulative[number, dialogue] == (best <= 10)
            assert alone[number, dialogue] == ((of_rounds[number] or 99) <= 10)
    assert np.all(np.diff(cumulative.astype(int), axis=0) >= 0)


def test_a_dialogue_cut_short_counts_in_every_round() -> None:
    queries = [_round("a", 0), _round("a", 1), _round("b", 0)]
    cumulative, alone = hits_by_round({"a/0": 9, "a/1": 1, "b/0": 1}, queries, 2)
    assert cumulative.tolist() == [[False, True], [True, True]]
    assert alone.tolist() == [[False, True], [True, False]]
    with pytest.raises(ValueError, match="dialogue a has round 0 twice"):
        hits_by_round({}, [_round("a", 0), _round("a", 0)], 2)


def test_a_query_counts_under_each_of_its_aspects() -> None:
    protocol = Protocol(exclude_reference=False, recall_ks=(), map_ks=(10,))
    aspects = {"1": ("addition", "negation"), "2": ("addition",), "3": ()}
    queries = [
        Query(
            query_id=name, reference_id=None, modification_text="t", target_ids=("t",),
            aspects=of_query,
        )
        for name, of_query in aspects.items()
    ]  # fmt: skip
    found = by_tag({"1": ["t"], "2": ["x", "t"], "3": ["t"]}, queries, protocol, "aspect")
    shown = {name: (entry["queries"], entry["metrics"]["map@10"]) for name, entry in found.items()}
    assert shown == {"addition": (2, 0.75), "negation": (1, 1.0)}
