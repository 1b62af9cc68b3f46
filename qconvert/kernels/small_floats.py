"""Floats of 8 and 4 bits.

e4m3fn: a sign, 4 bits of exponent (bias 7) and 3 of mantissa; 448 at most, no infinity.
e2m1: a sign and one of 0, 0.5, 1, 1.5, 2, 3, 4, 6.
Source: OCP 8-bit floating point specification (OFP8); OCP Microscaling Formats (MX)
specification 1.0.
"""

from typing import Any

import numpy as np
from numba import int64, njit, void

from qconvert.kernels.blocks import BYTES, BYTES_OUT, FLOATS
from qconvert.kernels.floats import bits_of, float_of

E4M3 = 1
E2M1 = 2
"""What codes are."""

_TOP = np.float32(448.0)
# 2**14 added puts 2**-9, the step below 2**-6, on the last bit of a float32.
_SHIFT = np.float32(2.0**14)
_SHIFT_BITS = np.uint32(0x46800000)
_NORMAL = np.float32(2.0**-6)
_ZERO = np.float32(0.0)
# Midway between neighbouring values; what lies there goes to the one with an even code.
_M1, _M2, _M3, _M4, _M5, _M6, _M7 = (np.float32(v) for v in (0.25, 0.75, 1.25, 1.75, 2.5, 3.5, 5))


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


@njit(error_model="numpy", inline="always")
def e2m1_code(value: Any) -> Any:
    """The nearest code, 0 to 15; what is negative keeps its sign where it becomes zero."""
    a = abs(value)
    code = np.int32(a > _M1) + np.int32(a >= _M2) + np.int32(a > _M3)
    code += np.int32(a >= _M4) + np.int32(a > _M5) + np.int32(a >= _M6)
    return np.uint8(code + np.int32(a > _M7) + (np.int32(value < _ZERO) << 3))


@njit(void(FLOATS, BYTES_OUT), error_model="numpy", nogil=True, cache=True)
def to_bits(x: Any, codes: Any) -> None:
    """float32 [n] -> uint8 [n]."""
    for k in range(x.size):
        codes[k] = e4m3_bits(x[k])


@njit(
    void(FLOATS, int64, int64, FLOATS, int64, BYTES_OUT),
    error_model="numpy",
    nogil=True,
    cache=True,
)
def round_codes(x: Any, columns: int, size: int, steps: Any, kind: int, codes: Any) -> None:
    """The nearest code of every weight divided by the step of its group."""
    group = 0
    for start in range(0, x.size, columns):
        for first in range(start, start + columns, size):
            step = steps[group]
            end = min(first + size, start + columns)
            if kind == E4M3:
                for k in range(first, end):
                    codes[k] = e4m3_bits(x[k] / step)
            else:
                for k in range(first, end):
                    codes[k] = e2m1_code(x[k] / step)
            group += 1


@njit(void(BYTES, BYTES_OUT), error_model="numpy", nogil=True, cache=True)
def pack(codes: Any, out: Any) -> None:
    """Two codes a byte, the first one in its low bits."""
    for k in range(out.size):
        out[k] = np.uint8(codes[2 * k] | (codes[2 * k + 1] << 4))
