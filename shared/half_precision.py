"""float16 to float32, several times as fast as numpy converts, which does it number by number."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

Halves = npt.NDArray[np.int16]
Singles = npt.NDArray[np.float32]

_EXPONENT_BITS_APART = 13  # float32 has 23 bits of fraction, float16 has 10
_SIGN_AND_NUMBER = np.int32(-0x70000001)  # the sign extended into 4 bits is kept in the first alone
_REBIAS = np.float32(2.0**112)  # the exponents' biases are 127 and 15; exact for subnormals, too


def to_float32(halves: Halves, out: Singles) -> None:
    """`out[:] = halves` (the bits of float16), exactly.

    Not for infinities and NaNs: they become large finite numbers.
    """
    bits = out.view(np.int32)
    np.copyto(bits, halves)
    np.left_shift(bits, _EXPONENT_BITS_APART, out=bits)
    np.bitwise_and(bits, _SIGN_AND_NUMBER, out=bits)
    np.multiply(out, _REBIAS, out=out)
