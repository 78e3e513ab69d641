"""Recall@K, Recall_subset@K and the rank of the first hit, of one query."""

from __future__ import annotations

from collections.abc import Collection, Sequence


def recall_at_k(ranking: Sequence[str], targets: Collection[str], k: int) -> float:
    """1.0 when any target is among the first k, else 0.0.

    Args:
        ranking: image ids, best first, no duplicates among the first k.
        targets: the ground truths that count; non-empty.
    Raises: ValueError: k < 1, no targets, or an image twice among the first k.
    """
    head = checked_head(ranking, targets, k)
    return float(not set(targets).isdisjoint(head))


def recall_subset_at_k(
    ranking: Sequence[str], subset: Collection[str], targets: Collection[str], k: int
) -> float:
    """Recall@k of the ranking with everything outside `subset` taken out.

    Args:
        ranking: any ranking that holds all of the subset; members it lacks count as last.
        subset: the images that compete, without the reference (CIRR: five).
    Raises: ValueError: as `recall_at_k`, or an empty subset.
    """
    if not subset:
        raise ValueError("the subset is empty")
    members = set(subset)
    return recall_at_k([image_id for image_id in ranking if image_id in members], targets, k)


def first_hit_rank(ranking: Sequence[str], targets: Collection[str]) -> int | None:
    """1-based rank of the best-placed target; None when the ranking holds none."""
    found = hit_ranks(ranking, targets)
    return found[0] if found else None


def hit_ranks(ranking: Sequence[str], targets: Collection[str]) -> list[int]:
    """1-based ranks of all targets the ranking holds, ascending."""
    wanted = set(targets)
    return [rank for rank, image_id in enumerate(ranking, start=1) if image_id in wanted]


def checked_head(ranking: Sequence[str], targets: Collection[str], k: int) -> Sequence[str]:
    """The first k of a ranking, after checking what every metric at k takes for granted."""
    if k < 1:
        raise ValueError(f"k is {k}; it must be at least 1")
    if not targets:
        raise ValueError("there is no target")
    head = ranking[:k]
    if len(set(head)) != len(head):
        twice = next(image_id for image_id in head if head.count(image_id) > 1)
        raise ValueError(f"image {twice!r} stands twice among the first {k}")
    return head
