"""float8 e4m3fn: a sign, 4 bits of exponent (bias 7) and 3 of mantissa; 448 at most, no infinity.

Source: OCP 8-bit floating point specification (OFP8).
"""

from typing import Any

import numpy as np
from numba import int64, njit, void

from qconvert.kernels.blocks import BYTES_OUT, FLOATS
from qconvert.kernels.floats import bits_of, float_of

_TOP = np.float32(448.0)
# 2**14 added puts 2**-9, the step below 2**-6, on the last bit of a float32.
_SHIFT = np.float32(2.0**14)
_SHIFT_BITS = np.uint32(0x46800000)
_NORMAL = np.float32(2.0**-6)


@njit(error_model="numpy", inline="always")
def e4m3_bits(value: Any) -> Any:
    """The nearest e4m3fn of a finite float32, ties to even, saturating; NaN is not asked for."""
    bits = bits_of(value)
    a = min(float_of(bits & np.uint32(0x7FFFFFFF)), _TOP)
    whole = bits_of(a)
    # The exponent's bias goes from 127 to 7, and half a last bit (less one, if even) is added.
    normal = np.uint32(np.uint32(whole - 0x3BF80001 + ((whole >> 20) & 1)) >> 20)
    small = np.uint32(bits_of(a + _SHIFT) - _SHIFT_BITS)
    code = small if a < _NORMAL else normal
    return np.uint8(((bits >> 24) & 0x80) | code)


@njit(void(FLOATS, BYTES_OUT), error_model="numpy", nogil=True, cache=True)
def to_bits(x: Any, codes: Any) -> None:
    """float32 [n] -> uint8 [n]."""
    for k in range(x.size):
        codes[k] = e4m3_bits(x[k])


@njit(void(FLOATS, int64, int64, FLOATS, BYTES_OUT), error_model="numpy", nogil=True, cache=True)
def round_codes(x: Any, columns: int, size: int, scales: Any, codes: Any) -> None:
    """Every weight divided by the scale of its group, as e4m3fn."""
    group = 0
    for start in range(0, x.size, columns):
        for first in range(start, start + columns, size):
            scale = scales[group]
            for k in range(first, min(first + size, start + columns)):
                codes[k] = e4m3_bits(x[k] / scale)
            group += 1
