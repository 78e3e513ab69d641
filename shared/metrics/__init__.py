"""Metrics of retrieval; every mean is over all queries, a failed one counting as a miss."""

from __future__ import annotations

from shared.metrics.average_precision import average_precision_at_k
from shared.metrics.bootstrap import LEVEL, RESAMPLES, bootstrap_intervals
from shared.metrics.dialogues import hits_by_round
from shared.metrics.evaluation import by_tag, evaluate
from shared.metrics.means import half_width_of_mean, mean_over_runs
from shared.metrics.recall import first_hit_rank, hit_ranks, recall_at_k, recall_subset_at_k

__all__ = [
    "LEVEL",
    "RESAMPLES",
    "average_precision_at_k",
    "bootstrap_intervals",
    "by_tag",
    "evaluate",
    "first_hit_rank",
    "half_width_of_mean",
    "hit_ranks",
    "hits_by_round",
    "mean_over_runs",
    "recall_at_k",
    "recall_subset_at_k",
]
