"""Average precision at K of one query, as CIRCO defines it."""

from __future__ import annotations

from collections.abc import Collection, Sequence

from shared.metrics.recall import checked_head


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
    wanted = set(targets)
    hits = 0
    total = 0.0
    for rank, image_id in enumerate(checked_head(ranking, targets, k), start=1):
        if image_id in wanted:
            hits += 1
            total += hits / rank
    return total / min(k, len(wanted))
