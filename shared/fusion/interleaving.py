"""Fusion by taking turns: the first of each list, then the second of each, and so on."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from shared.fusion.union import Fused, unite


def interleave(rankings: Sequence[Sequence[int] | npt.NDArray[np.int32]]) -> Fused:
    """Rows by (best single rank, order of the lists), each row once.

    A row takes its place at its first appearance, so two lists never tie. The score falls in equal
    steps from 1 to 1/n.

    Raises: ValueError: a row twice in one ranking, or no ranking.
    """
    union = unite(rankings)
    list_of = np.repeat(np.arange(len(rankings)), [len(ranking) for ranking in rankings])
    turns = np.lexsort((list_of, union.rank))
    _, first = np.unique(union.member[turns], return_index=True)
    order = union.member[turns][np.sort(first)]
    total = len(order)
    return [(row, (total - i) / total) for i, row in enumerate(union.rows[order].tolist())]
