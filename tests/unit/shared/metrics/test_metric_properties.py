"""What must hold of the metrics whatever the rankings: bounds, order in K, ties to definitions."""

from __future__ import annotations

import random
from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shared.datasets import Protocol, Query
from shared.metrics import (
    average_precision_at_k,
    evaluate,
    first_hit_rank,
    recall_at_k,
    recall_subset_at_k,
)

IMAGES = tuple("abcdefghij")
KS = (1, 2, 3, 5, 10)
PROTOCOL = Protocol(exclude_reference=False, recall_ks=KS, map_ks=KS, subset_ks=(1, 2, 3))


@st.composite
def asked(draw: st.DrawFn) -> tuple[Query, Sequence[str] | None]:
    """A query with its ranking, or None when it has failed."""
    targets = tuple(draw(st.lists(st.sampled_from(IMAGES), min_size=1, max_size=5, unique=True)))
    subset = (targets[0], *draw(st.lists(st.sampled_from(IMAGES), max_size=4, unique=True)))
    query = Query(
        query_id="", reference_id=None, modification_text="t", target_ids=targets,
        subset_ids=tuple(dict.fromkeys(subset)),
    )  # fmt: skip
    return query, draw(st.none() | st.permutations(IMAGES))


@given(st.lists(asked(), min_size=1, max_size=8))
def test_means_are_those_of_the_definitions_over_all_queries(
    drawn: list[tuple[Query, Sequence[str] | None]],
) -> None:
    queries = [
        Query(
            query_id=str(place), reference_id=None, modification_text="t",
            target_ids=query.target_ids, subset_ids=query.subset_ids,
        )
        for place, (query, _) in enumerate(drawn)
    ]  # fmt: skip
    rankings = {str(place): ranking for place, (_, ranking) in enumerate(drawn)}
    metrics = evaluate(rankings, queries, PROTOCOL, resamples=0)["metrics"]
    for k in KS:
        hits = precisions = 0.0
        for query in queries:
            ranking = rankings[query.query_id]
            if ranking is not None:
                hits += recall_at_k(ranking, query.target_ids, k)
                precisions += average_precision_at_k(ranking, query.target_ids, k)
        assert metrics[f"recall@{k}"] == pytest.approx(hits / len(queries))
        assert metrics[f"map@{k}"] == pytest.approx(precisions / len(queries))
    for k in (1, 2, 3):
        within = sum(
            recall_subset_at_k(ranking, query.subset_ids, query.target_ids, k)
            for query in queries
            if (ranking := rankings[query.query_id]) is not None
        )
        assert metrics[f"recall_subset@{k}"] == pytest.approx(within / len(queries))


@given(st.permutations(IMAGES), st.lists(st.sampled_from(IMAGES), min_size=1, unique=True))
def test_recall_grows_with_k_and_precision_never_exceeds_it(
    ranking: list[str], targets: list[str]
) -> None:
    recalls = [recall_at_k(ranking, targets, k) for k in KS]
    assert recalls == sorted(recalls)
    rank = first_hit_rank(ranking, targets)
    assert rank is not None
    assert recalls == [float(rank <= k) for k in KS]
    for k, recall in zip(KS, recalls, strict=True):
        precision = average_precision_at_k(ranking, targets, k)
        assert 0.0 <= precision <= recall <= 1.0


@given(st.permutations(IMAGES), st.lists(st.sampled_from(IMAGES), min_size=1, unique=True))
def test_targets_first_is_the_best_and_only_perfect_order(
    ranking: list[str], targets: list[str]
) -> None:
    best = [*targets, *(image for image in IMAGES if image not in targets)]
    for k in KS:
        assert average_precision_at_k(best, targets, k) == 1.0
        perfect = average_precision_at_k(ranking, targets, k) == 1.0
        assert perfect == (set(ranking[: min(k, len(targets))]) <= set(targets))


@given(st.permutations(IMAGES), st.sampled_from(IMAGES))
def test_moving_a_target_forward_never_costs(ranking: list[str], target: str) -> None:
    place = ranking.index(target)
    if place:
        moved = [*ranking[: place - 1], target, ranking[place - 1], *ranking[place + 1 :]]
        for k in KS:
            assert average_precision_at_k(moved, [target], k) >= average_precision_at_k(
                ranking, [target], k
            )


def test_a_ranking_that_ignores_the_query_gains_nothing_by_ties() -> None:
    """Equal scores are ordered before they come here; the metrics know the order alone."""
    queries = [
        Query(query_id=str(n), reference_id=None, modification_text="t", target_ids=(IMAGES[n],))
        for n in range(10)
    ]
    constant = {query.query_id: list(IMAGES) for query in queries}
    metrics = evaluate(constant, queries, Protocol(exclude_reference=False, recall_ks=(1, 5)))
    assert metrics["metrics"] == {"recall@1": 0.1, "recall@5": 0.5}
    shuffled = list(queries)
    random.Random(3).shuffle(shuffled)
    again = evaluate(constant, shuffled, Protocol(exclude_reference=False, recall_ks=(1, 5)))
    assert again["metrics"] == metrics["metrics"]
