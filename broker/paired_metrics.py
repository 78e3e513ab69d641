"""Two rankings of the same queries compared query by query: intervals, and a sign test."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import msgspec
import numpy as np

from shared.datasets import Protocol, Query
from shared.metrics import bootstrap_intervals, evaluate

Rankings = Mapping[str, Sequence[str] | None]
"""query id -> image ids, best first; None or absent = the query failed."""


class PairedMetric(msgspec.Struct, frozen=True, kw_only=True):
    """One metric of two rankings, query by query.

    Attributes:
        difference: second minus first; `low` and `high` are its 95 % bounds, by drawing queries
            (both values of each) anew with replacement.
        better, worse: queries of which the second ranking has more, or less.
        p_sign: two-sided exact sign test of better against worse; 1 when no query differs.
    """

    first: float
    second: float
    difference: float
    low: float
    high: float
    better: int
    worse: int
    p_sign: float


def paired_metrics(
    queries: Sequence[Query], protocol: Protocol, first: Rankings, second: Rankings
) -> dict[str, PairedMetric]:
    """Every metric of the protocol but those of subsets and dialogues; {} without ground truth."""
    scored = [query for query in queries if query.target_ids]
    values = [[_of_one(query, protocol, ranked) for query in scored] for ranked in (first, second)]
    if not scored or not values[0][0]:
        return {}
    names = list(values[0][0])
    one, two = (
        np.array([[of_query[name] for name in names] for of_query in of_ranking])
        for of_ranking in values
    )
    bounds = bootstrap_intervals(two - one)
    paired = {}
    for column, name in enumerate(names):
        differences = two[:, column] - one[:, column]
        better, worse = int((differences > 0).sum()), int((differences < 0).sum())
        means = [math.fsum(ranked[:, column].tolist()) / len(scored) for ranked in (one, two)]
        paired[name] = PairedMetric(
            first=means[0],
            second=means[1],
            difference=means[1] - means[0],
            low=float(bounds[column, 0]),
            high=float(bounds[column, 1]),
            better=better,
            worse=worse,
            p_sign=sign_test(better, worse),
        )
    return paired


def sign_test(better: int, worse: int) -> float:
    """Two-sided exact p of as uneven a split of better + worse fair coins, or a more uneven one."""
    differing, fewer = better + worse, min(better, worse)
    tail = sum(math.comb(differing, heads) for heads in range(fewer + 1))
    return min(1.0, float(2 * tail / 2**differing))


def _of_one(query: Query, protocol: Protocol, rankings: Rankings) -> dict[str, float]:
    """A query's metrics; those of subsets are not in them."""
    plain = msgspec.structs.replace(protocol, subset_ks=(), hits_ks=())
    ranking = rankings.get(query.query_id)
    metrics: dict[str, float] = evaluate({query.query_id: ranking}, [query], plain, resamples=0)[
        "metrics"
    ]
    return metrics
