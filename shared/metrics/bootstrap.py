"""Confidence intervals of means over queries, by the percentile bootstrap."""

from __future__ import annotations

import functools

import numpy as np
import numpy.typing as npt

Values = npt.NDArray[np.float64]

RESAMPLES = 1000
LEVEL = 0.95
DECIMALS = 6
"""Bounds are rounded: sums of fractions differ in their last bits between processors."""
_BLOCK = 50


def bootstrap_intervals(
    values: Values, seed: int = 0, resamples: int = RESAMPLES, level: float = LEVEL
) -> Values:
    """Percentile intervals of the column means: queries are drawn anew with replacement.

    All columns share the same draws, so intervals of several metrics belong together, and so do
    those of two rankings of the same queries.

    Args:
        values: (queries, metrics), one row a query; at least one row.
    Returns: (metrics, 2): lower and upper bound, rounded to 6 decimals.
    Raises: ValueError: no rows, no resamples, or a level outside (0, 1).
    """
    if values.ndim != 2 or not len(values):
        raise ValueError(f"values have the shape {values.shape}; give (queries, metrics)")
    if resamples < 1 or not 0 < level < 1:
        raise ValueError(f"{resamples} resamples at level {level}")
    weights = _draws(len(values), seed, resamples)
    means = np.concatenate(
        [
            weights[start : start + _BLOCK].astype(np.float64) @ values
            for start in range(0, resamples, _BLOCK)
        ]
    ) / len(values)
    tail = (1 - level) / 2
    return np.round(np.quantile(means, [tail, 1 - tail], axis=0).T, DECIMALS)


@functools.lru_cache(maxsize=4)
def _draws(queries: int, seed: int, resamples: int) -> npt.NDArray[np.uint8]:
    """(resamples, queries): how often each query was drawn; the same for the same arguments.

    One byte each (25 MB for 25,010 queries), kept because every stage and every setting of a study
    asks for the same ones. A count beyond 255 has a probability below 1e-500.
    """
    random = np.random.default_rng(seed)
    draws = np.empty((resamples, queries), dtype=np.uint8)
    for resample in range(resamples):
        drawn = random.integers(queries, size=queries)
        draws[resample] = np.bincount(drawn, minlength=queries)
    return draws
