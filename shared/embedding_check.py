"""Says what is wrong with an embedding: wherever one comes in, it is checked by this."""

from __future__ import annotations

import numpy as np

EXPECTED_UNIT = 1e-3
"""By how much the length of a unit vector may differ from 1."""


def what_is_wrong(values: bytes) -> str:
    """Why `values` (little-endian float32) are no unit vector, in words; empty when they are."""
    if not values or len(values) % 4:
        return f"the embedding has {len(values)} bytes: no vector of 4-byte numbers"
    vector = np.frombuffer(values, dtype="<f4")
    strange = np.flatnonzero(~np.isfinite(vector))
    if len(strange):
        kind = "NaN" if np.isnan(vector[strange[0]]) else "infinite"
        return (
            f"the embedding is no finite vector: {len(strange)} of its {len(vector)} numbers are"
            f" not, the first of them (number {strange[0]}) is {kind}"
        )
    length = float(np.linalg.norm(vector.astype(np.float64)))
    if abs(length - 1.0) > EXPECTED_UNIT:
        return f"the embedding has length {length:g}, not 1"
    return ""
