"""The metrics of a whole run: means over all its queries."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from shared.datasets.benchmark import Protocol, Query
from shared.metrics.average_precision import average_precision_at_k
from shared.metrics.recall import first_hit_rank, recall_at_k, recall_subset_at_k

Rankings = Mapping[str, Sequence[str] | None]
"""query id -> image ids, best first; None or absent = the query failed."""


def evaluate(
    rankings: Rankings,
    queries: Sequence[Query],
    protocol: Protocol,
    subset_rankings: Rankings | None = None,
) -> dict[str, Any]:
    """Every metric of the protocol, as fractions in [0, 1].

    The denominator is always the number of queries that have a ground truth; a query without
    ranking is a miss in every metric and is named in "failed". Queries whose ground truth is not
    published are counted in "unscored" and nowhere else.

    Args:
        subset_rankings: rankings of the subsets alone; default: taken out of `rankings`, right only
            when these reach deep enough to hold the subsets.
    Returns: {"queries", "unscored", "failed": [ids], "metrics": {"recall@10": ..., "map@5": ...,
        "recall_subset@1": ...}, "rank": {"median", "mean", "found"}}. Ranks are 1-based, of the
        best-placed target, over the "found" queries whose ranking holds one. "metrics" is empty
        when no query has a ground truth.
    Raises: ValueError: a ranking holds an image twice among the first K.
    """
    scored = [query for query in queries if query.target_ids]
    metrics: dict[str, float] = {}
    if scored:
        for k in protocol.recall_ks:
            metrics[f"recall@{k}"] = _mean(_recall, rankings, scored, protocol, k)
        for k in protocol.map_ks:
            metrics[f"map@{k}"] = _mean(_average_precision, rankings, scored, protocol, k)
        for k in protocol.subset_ks:
            within = rankings if subset_rankings is None else subset_rankings
            metrics[f"recall_subset@{k}"] = _mean(_recall_subset, within, scored, protocol, k)
    return {
        "queries": len(queries),
        "unscored": len(queries) - len(scored),
        "failed": [q.query_id for q in queries if rankings.get(q.query_id) is None],
        "metrics": metrics,
        "rank": _rank_summary(rankings, scored, protocol),
    }


def by_tag(
    rankings: Rankings,
    queries: Sequence[Query],
    protocol: Protocol,
    tag: str,
    subset_rankings: Rankings | None = None,
) -> dict[str, dict[str, Any]]:
    """`evaluate` for each value of one tag, by value; queries without the tag come under ""."""
    values = sorted({query.tags.get(tag, "") for query in queries})
    members = {
        value: [query for query in queries if query.tags.get(tag, "") == value] for value in values
    }
    return {
        value: evaluate(rankings, members[value], protocol, subset_rankings) for value in values
    }


Metric = Callable[[Query, Sequence[str], Protocol, int], float]


def _mean(
    metric: Metric, rankings: Rankings, queries: Sequence[Query], protocol: Protocol, k: int
) -> float:
    """The mean over all queries; one without ranking adds 0."""
    total = 0.0
    for query in queries:
        ranking = rankings.get(query.query_id)
        total += 0.0 if ranking is None else metric(query, ranking, protocol, k)
    return total / len(queries)


def _recall(query: Query, ranking: Sequence[str], protocol: Protocol, k: int) -> float:
    return recall_at_k(ranking, _hits(query, protocol), k)


def _average_precision(query: Query, ranking: Sequence[str], protocol: Protocol, k: int) -> float:
    return average_precision_at_k(ranking, query.target_ids, k)


def _recall_subset(query: Query, ranking: Sequence[str], protocol: Protocol, k: int) -> float:
    if not query.subset_ids:
        return 0.0
    return recall_subset_at_k(ranking, query.subset_ids, _hits(query, protocol), k)


def _hits(query: Query, protocol: Protocol) -> tuple[str, ...]:
    return query.target_ids[:1] if protocol.recall_targets == "first" else query.target_ids


def _rank_summary(
    rankings: Rankings, queries: Sequence[Query], protocol: Protocol
) -> dict[str, float | int | None]:
    ranks = []
    for query in queries:
        rank = first_hit_rank(rankings.get(query.query_id) or (), _hits(query, protocol))
        if rank is not None:
            ranks.append(rank)
    return {
        "median": statistics.median(ranks) if ranks else None,
        "mean": statistics.fmean(ranks) if ranks else None,
        "found": len(ranks),
    }
