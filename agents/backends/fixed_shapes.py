"""Cuts requests into batches whose shapes depend on each request alone, never on its neighbours.

Matrix kernels choose how to sum by the shape they get, so the same row can differ in its last bits
between a batch of 3 and a batch of 16, or between two padded lengths. Results are reproducible when
every forward pass has a fixed number of rows and a length that each row would have had on its own.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

LENGTH_STEP = 16


def padded_length(length: int) -> int:
    """The bucket of a sequence: the next multiple of 16 with at least one position of padding.

    One padded position at least, because attention takes another path when a batch has none.
    """
    return (length // LENGTH_STEP + 1) * LENGTH_STEP


def batches_by_length(lengths: Sequence[int], rows: int) -> Iterator[tuple[int, list[int]]]:
    """Yields (padded length, at most `rows` positions of `lengths`), shortest first, in order."""
    buckets: dict[int, list[int]] = {}
    for position, length in enumerate(lengths):
        buckets.setdefault(padded_length(length), []).append(position)
    for padded, positions in sorted(buckets.items()):
        for start in range(0, len(positions), rows):
            yield padded, positions[start : start + rows]
