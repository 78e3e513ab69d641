"""Hits@K of dialogues, round by round: cumulative, as is reported, and of each round alone."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import numpy.typing as npt

from shared.datasets.benchmark import Query

Hits = npt.NDArray[np.bool_]


def rounds_of(queries: Sequence[Query]) -> dict[int, list[Query]]:
    """Round -> its queries, rounds in order; queries that belong to no dialogue are left out."""
    rounds: dict[int, list[Query]] = {}
    for query in queries:
        if query.dialogue_id and query.round is not None:
            rounds.setdefault(query.round, []).append(query)
    return dict(sorted(rounds.items()))


def hits_by_round(
    ranks: Mapping[str, int | None], queries: Sequence[Query], k: int
) -> tuple[Hits, Hits]:
    """Which dialogues have found their image within the first k, round by round.

    Args:
        ranks: query id -> 1-based rank of its target; None or absent (not found, failed) is a miss.
    Returns: (cumulative, alone), each (rounds, dialogues), rounds in order, dialogues in the order
        in which they appear. A cumulative hit in any round is one in all later rounds. A dialogue
        without a query in some round has no hit of that round.
    Raises: ValueError: two queries of one dialogue and round.
    """
    rounds = rounds_of(queries)
    dialogues = dict.fromkeys(query.dialogue_id for query in queries if query.dialogue_id)
    column = {dialogue: place for place, dialogue in enumerate(dialogues)}
    alone = np.zeros((len(rounds), len(column)), dtype=np.bool_)
    asked = np.zeros_like(alone)
    for row, members in enumerate(rounds.values()):
        for query in members:
            place = (row, column[query.dialogue_id])
            if asked[place]:
                raise ValueError(f"dialogue {query.dialogue_id} has round {query.round} twice")
            asked[place] = True
            rank = ranks.get(query.query_id)
            alone[place] = rank is not None and rank <= k
    return np.logical_or.accumulate(alone, axis=0), alone
