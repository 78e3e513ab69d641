"""Average precision at K of one query, as CIRCO defines it."""

from __future__ import annotations

from collections.abc import Collection, Sequence

from shared.metrics.recall import checked_head, hit_ranks


def average_precision_at_k(ranking: Sequence[str], targets: Collection[str], k: int) -> float:
    """AP@k = Σ over hits at rank r <= k of (hits up to r) / r, divided by min(k, targets).

    Dividing by the number of targets alone would keep a perfect ranking below 1 when there are more
    targets than k.

    Args:
        ranking: image ids, best first.
        targets: every ground truth; non-empty.
    Returns: a fraction in [0, 1].
    Raises: ValueError: k < 1, no targets, or an image twice among the first k.
    """
    head = checked_head(ranking, targets, k)
    return average_precision_of_hits(hit_ranks(head, targets), len(set(targets)), k)


def average_precision_of_hits(hits: Sequence[int], targets: int, k: int) -> float:
    """AP@k from the 1-based ranks of the targets found, ascending, and the number of targets."""
    within = (rank for rank in hits if rank <= k)
    return sum(place / rank for place, rank in enumerate(within, start=1)) / min(k, targets)
