"""The scores a ranking may keep, as integers that sort: slot, score, row.

Every key is different, so that selection has one outcome, whatever algorithm selects. From the top:
the slot (10 bits; it numbers the rankings of a pass), 2^21 minus the score in millionths (22 bits),
the row (31 bits). Ascending is best first, ties to the lower row. Scores of unit vectors are within
±1; the limit is ±2.09.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import numpy.typing as npt

Keys = npt.NDArray[np.int64]
Scores = npt.NDArray[np.float32]

SCORE_DECIMALS = 6
MICRO = 10**SCORE_DECIMALS
MOST_SLOTS = 1024
_SLOT_SHIFT, _SCORE_SHIFT = 53, 31
_HIGHEST = 1 << 21
_ROW_MASK, _SCORE_MASK = (1 << 31) - 1, (1 << 22) - 1


class ScoredRows(NamedTuple):
    """A ranking as numbers: int32 rows, best first, and their float32 scores."""

    rows: npt.NDArray[np.int32]
    scores: npt.NDArray[np.float32]


def keys_of(slots: Keys, scores: Scores, rows: Keys) -> Keys:
    micro = np.rint(scores.astype(np.float64) * MICRO).astype(np.int64)
    keys: Keys = (slots << _SLOT_SHIFT) | ((_HIGHEST - micro) << _SCORE_SHIFT) | rows
    return keys


def slots_of(keys: Keys) -> Keys:
    slots: Keys = keys >> _SLOT_SHIFT
    return slots


def rows_of(keys: Keys) -> Keys:
    return keys & _ROW_MASK


def micro_scores_of(keys: Keys) -> Keys:
    """Scores in millionths."""
    return _HIGHEST - ((keys >> _SCORE_SHIFT) & _SCORE_MASK)


def best_keys(keys: Keys, depth: int) -> Keys:
    """The first `depth` keys of every slot, ascending."""
    keys = np.sort(keys)
    slots = slots_of(keys)
    begins = np.flatnonzero(np.append(True, slots[1:] != slots[:-1])) if len(keys) else slots
    lengths = np.diff(begins, append=len(keys))
    places = np.arange(len(keys)) - np.repeat(begins, lengths)
    best: Keys = keys[places < depth]
    return best
