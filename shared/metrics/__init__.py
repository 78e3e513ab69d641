"""Metrics of retrieval; every mean is over all queries, a failed one counting as a miss."""

from __future__ import annotations

from shared.metrics.average_precision import average_precision_at_k
from shared.metrics.evaluation import by_tag, evaluate
from shared.metrics.recall import first_hit_rank, recall_at_k, recall_subset_at_k

__all__ = [
    "average_precision_at_k",
    "by_tag",
    "evaluate",
    "first_hit_rank",
    "recall_at_k",
    "recall_subset_at_k",
]
