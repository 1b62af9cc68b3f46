"""Inner loops of MXFP4: 32 weights as e2m1 (sign, 0 0.5 1 1.5 2 3 4 6) times a power of two.

Codes stand for twice these values (0 1 2 3 4 6 8 12), and the step for half the power, as in
ggml. No fastmath: these bytes equal ggml's.
"""

# mypy: disable-error-code="no-untyped-def"

import math

import numpy as np
from numba import njit

from qconvert.kernels.floats import float_of
from qconvert.kernels.legacy import magnitude

BLOCK = 32
_ZERO = np.float32(0)
_VALUES = np.array([0, 1, 2, 3, 4, 6, 8, 12, 0, -1, -2, -3, -4, -6, -8, -12], np.float32)
# Midway between neighbouring values.
_T1, _T2, _T3, _T4, _T5, _T6, _T7 = (np.float32(v) for v in (0.5, 1.5, 2.5, 3.5, 5, 7, 10))
_OVERFLOWING = np.float32(2.0**125)


@njit(cache=True, nogil=True)
def step(e):
    """2**(e - 128), half of what the exponent byte stands for."""
    return float_of(np.uint32(e - 1) << 23 if e >= 2 else np.uint32(0x00200000) << e)


@njit(cache=True, nogil=True)
def _exponent(x, first):
    """The exponent byte of a block: its largest weight lies between 4 and 8 times 2**(e - 127).

    The logarithm is rounded to float32 before it is cut, as ggml has it, so that a weight just
    below a power of two may count for that power.
    """
    amax = magnitude(x, first, BLOCK)
    if not (amax > _ZERO and amax < np.inf):
        return np.uint8(0)
    return np.uint8(np.int32(math.floor(np.float32(math.log2(np.float64(amax))))) + 125)


@njit(cache=True, nogil=True)
def _code(x, d):
    """The nearest value's code; in the middle of two, the smaller's."""
    a = abs(x)
    code = np.int32(a > _T1 * d) + np.int32(a > _T2 * d) + np.int32(a > _T3 * d)
    code += np.int32(a > _T4 * d) + np.int32(a > _T5 * d) + np.int32(a > _T6 * d)
    code += np.int32(a > _T7 * d)
    # The largest exponent of all puts 8 and 12 beyond float32.
    code = min(code, np.int32(7 if d < _OVERFLOWING else 5))
    return np.uint8(code + (8 if x < _ZERO and code > 0 else 0))


@njit(cache=True, nogil=True)
def _put_block(codes, first, e, out, at):
    out[at] = e
    for j in range(16):
        out[at + 1 + j] = np.uint8(codes[first + j] | (codes[first + 16 + j] << 4))


@njit(cache=True, nogil=True)
def quantize(x, out):
    """float32 [blocks * 32] -> uint8 [blocks * 17]."""
    codes = np.empty(BLOCK, np.uint8)
    for b in range(x.size // BLOCK):
        e = _exponent(x, b * BLOCK)
        d = step(e)
        for j in range(BLOCK):
            codes[j] = _code(x[b * BLOCK + j], d)
        _put_block(codes, 0, e, out, b * 17)


@njit(cache=True, nogil=True)
def fit(x, e):
    """float32 [blocks * 32] -> uint8 [blocks]."""
    for b in range(e.size):
        e[b] = _exponent(x, b * BLOCK)


@njit(cache=True, nogil=True)
def round_codes(x, e, codes):
    """float32 [blocks * 32] -> uint8 [blocks * 32]."""
    for b in range(e.size):
        d = step(e[b])
        for j in range(b * BLOCK, (b + 1) * BLOCK):
            codes[j] = _code(x[j], d)


@njit(cache=True, nogil=True)
def pack(codes, e, out):
    """uint8 [blocks * 32] -> uint8 [blocks * 17]."""
    for b in range(e.size):
        _put_block(codes, b * BLOCK, e[b], out, b * 17)


@njit(cache=True, nogil=True)
def dequantize(packed, out):
    """uint8 [blocks * 17] -> float32 [blocks * 32]."""
    for b in range(out.size // BLOCK):
        d = step(packed[b * 17])
        for j in range(16):
            byte = packed[b * 17 + 1 + j]
            out[b * BLOCK + j] = d * _VALUES[byte & 15]
            out[b * BLOCK + 16 + j] = d * _VALUES[byte >> 4]
