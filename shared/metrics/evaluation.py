"""The metrics of a whole run: means over all its queries, with their confidence intervals."""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from shared.datasets.benchmark import Protocol, Query
from shared.metrics.average_precision import average_precision_of_hits
from shared.metrics.bootstrap import RESAMPLES, bootstrap_intervals
from shared.metrics.dialogues import hits_by_round, rounds_of
from shared.metrics.recall import checked_head, hit_ranks

Rankings = Mapping[str, Sequence[str] | None]
"""query id -> image ids, best first; None or absent = the query failed."""

Column = npt.NDArray[np.float64]


def evaluate(
    rankings: Rankings,
    queries: Sequence[Query],
    protocol: Protocol,
    subset_rankings: Rankings | None = None,
    *,
    seed: int = 0,
    resamples: int = RESAMPLES,
) -> dict[str, Any]:
    """Every metric of the protocol, as fractions in [0, 1].

    The denominator is always the number of queries (of dialogues, for Hits@K) that have a ground
    truth; a query without ranking is a miss in every metric and is named in "failed". Queries whose
    ground truth is not published are counted in "unscored" and nowhere else.

    Args:
        subset_rankings: rankings of the subsets alone; default: taken out of `rankings`, right only
            when these reach deep enough to hold the subsets.
        seed, resamples: of the bootstrap; 0 resamples leave the intervals out.
    Returns: {"queries", "unscored", "failed": [ids], "metrics": {"recall@10": ..., "map@5": ...,
        "recall_subset@1": ..., "hits@10": ..., "round_hits@10": ...}, "intervals": {metric: [low,
        high]}, "rank": {"median", "mean", "found", "of"}, "rounds": [...]}. "hits@K" is cumulative
        up to the last round, "round_hits@K" of the last round alone; "rounds" has both for each
        round. Ranks are 1-based, of the best-placed target: the median over all "of" scored
        queries, a miss coming last (None when the median is a miss), the mean over the "found".
        "metrics" is empty when no query has a ground truth.
    Raises: ValueError: a ranking holds an image twice among the first K.
    """
    scored = [query for query in queries if query.target_ids]
    best = {query.query_id: _best_rank(rankings, query, protocol) for query in scored}
    columns = _columns(rankings, scored, protocol, best, subset_rankings) if scored else {}
    rounds = _rounds(scored, protocol, best, seed, resamples)
    last = rounds[-1] if rounds else {"metrics": {}, "intervals": {}}
    return {
        "queries": len(queries),
        "unscored": len(queries) - len(scored),
        "failed": [q.query_id for q in queries if rankings.get(q.query_id) is None],
        "metrics": {**_means(columns), **last["metrics"]},
        "intervals": {**_intervals(columns, seed, resamples), **last["intervals"]},
        "rank": _rank_summary(best.values()),
        "rounds": rounds,
    }


def by_tag(
    rankings: Rankings,
    queries: Sequence[Query],
    protocol: Protocol,
    tag: str,
    subset_rankings: Rankings | None = None,
    *,
    seed: int = 0,
    resamples: int = RESAMPLES,
) -> dict[str, dict[str, Any]]:
    """`evaluate` for each value of one tag, by value; queries without the tag come under "".

    The tag "aspect" stands for `Query.aspects`: a query counts under each of its aspects, and one
    without any under none.
    """
    members: dict[str, list[Query]] = {}
    for query in queries:
        for value in query.aspects if tag == "aspect" else (query.tags.get(tag, ""),):
            members.setdefault(value, []).append(query)
    return {
        value: evaluate(
            rankings, members[value], protocol, subset_rankings, seed=seed, resamples=resamples
        )
        for value in sorted(members)
    }


def _best_rank(rankings: Rankings, query: Query, protocol: Protocol) -> int | None:
    """The rank recall looks at; None for a miss."""
    found = hit_ranks(rankings.get(query.query_id) or (), _recall_targets(query, protocol))
    return found[0] if found else None


def _columns(
    rankings: Rankings,
    scored: Sequence[Query],
    protocol: Protocol,
    best: Mapping[str, int | None],
    subset_rankings: Rankings | None,
) -> dict[str, Column]:
    """Metric -> its value of every scored query; a query without ranking has zeros."""
    deepest = max((*protocol.recall_ks, *protocol.map_ks, *protocol.hits_ks), default=0)
    columns = {
        **{f"recall@{k}": np.zeros(len(scored)) for k in protocol.recall_ks},
        **{f"map@{k}": np.zeros(len(scored)) for k in protocol.map_ks},
        **{f"recall_subset@{k}": np.zeros(len(scored)) for k in protocol.subset_ks},
    }
    for place, query in enumerate(scored):
        ranking = rankings.get(query.query_id)
        if ranking is not None and deepest:
            checked_head(ranking, query.target_ids, deepest)
            rank = best[query.query_id]
            for k in protocol.recall_ks:
                columns[f"recall@{k}"][place] = rank is not None and rank <= k
            if protocol.map_ks:
                found = hit_ranks(ranking, query.target_ids)
                for k in protocol.map_ks:
                    precision = average_precision_of_hits(found, len(set(query.target_ids)), k)
                    columns[f"map@{k}"][place] = precision
        if protocol.subset_ks and query.subset_ids:
            subset_rank = _subset_rank(rankings, query, protocol, subset_rankings)
            for k in protocol.subset_ks:
                hit = subset_rank is not None and subset_rank <= k
                columns[f"recall_subset@{k}"][place] = hit
    return columns


def _subset_rank(
    rankings: Rankings, query: Query, protocol: Protocol, subset_rankings: Rankings | None
) -> int | None:
    """The rank of the best-placed target among the members of the query's subset."""
    within = (rankings if subset_rankings is None else subset_rankings).get(query.query_id)
    members = set(query.subset_ids)
    competing = [image_id for image_id in within or () if image_id in members]
    targets = _recall_targets(query, protocol)
    checked_head(competing, targets, max(protocol.subset_ks))
    found = hit_ranks(competing, targets)
    return found[0] if found else None


def _recall_targets(query: Query, protocol: Protocol) -> tuple[str, ...]:
    return query.target_ids[:1] if protocol.recall_targets == "first" else query.target_ids


def _rounds(
    scored: Sequence[Query],
    protocol: Protocol,
    best: Mapping[str, int | None],
    seed: int,
    resamples: int,
) -> list[dict[str, Any]]:
    """Per dialogue round: {"round", "dialogues", "metrics", "intervals"}; [] without dialogues."""
    rounds = rounds_of(scored) if protocol.hits_ks else {}
    hits = {k: hits_by_round(best, scored, k) for k in protocol.hits_ks} if rounds else {}
    described = []
    for place, number in enumerate(rounds):
        columns: dict[str, Column] = {}
        for k, (cumulative, alone) in hits.items():
            columns[f"hits@{k}"] = cumulative[place].astype(np.float64)
            columns[f"round_hits@{k}"] = alone[place].astype(np.float64)
        described.append(
            {
                "round": number,
                "dialogues": len(next(iter(columns.values()))),
                "metrics": _means(columns),
                "intervals": _intervals(columns, seed, resamples),
            }
        )
    return described


def _means(columns: Mapping[str, Column]) -> dict[str, float]:
    return {name: math.fsum(column.tolist()) / len(column) for name, column in columns.items()}


def _intervals(columns: Mapping[str, Column], seed: int, resamples: int) -> dict[str, list[float]]:
    if not columns or not resamples:
        return {}
    bounds = bootstrap_intervals(np.stack(list(columns.values()), axis=1), seed, resamples)
    return {name: both.tolist() for name, both in zip(columns, bounds, strict=True)}


def _rank_summary(best: Iterable[int | None]) -> dict[str, float | int | None]:
    ranks = [math.inf if rank is None else float(rank) for rank in best]
    found = [rank for rank in ranks if rank != math.inf]
    median = statistics.median(ranks) if ranks else math.inf
    return {
        "median": None if median == math.inf else median,
        "mean": statistics.fmean(found) if found else None,
        "found": len(found),
        "of": len(ranks),
    }
