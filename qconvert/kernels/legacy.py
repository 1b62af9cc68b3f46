"""Inner loops of ggml's first formats, Q4_0, Q4_1, Q5_0 and Q5_1.

They are one: a weight is code * d + m, where Q4_0 and Q5_0 store no m and count their codes from
the middle. The caller says which by `zero` (the code of 0: 8, 16, or 0) and `bits` (4 or 5).
Arrays are flat, blocks one after the other.

No fastmath: these bytes equal ggml's, rounding by rounding.
"""

# mypy: disable-error-code="no-untyped-def"

import numpy as np
from numba import njit

BLOCK = 32
_ZERO = np.float32(0)
_HALF = np.float32(0.5)
_CODE_LIMIT = np.float32(256)


@njit(cache=True, nogil=True, forceinline=True, fastmath={"nnan", "nsz"})
def _range(x, first, size):
    """The smallest and largest weight of a run. The flags let it vectorize; the sign of a zero
    and the meaning of a NaN are then open, and the callers' to settle."""
    low = x[first]
    high = x[first]
    for j in range(first + 1, first + size):
        low = min(low, x[j])
        high = max(high, x[j])
    return low, high


@njit(cache=True, nogil=True, forceinline=True)
def _extreme(x, first):
    """The first weight of the largest absolute value, with its sign; +0 where all are zero."""
    low, high = _range(x, first, BLOCK)
    if high == -low:
        for j in range(first, first + BLOCK):
            if abs(x[j]) == high:
                return x[j] if high != _ZERO else _ZERO
    return high if high > -low else low


@njit(cache=True, nogil=True, forceinline=True)
def _first_zero(x, first):
    """The first zero of a block, which may be -0."""
    for j in range(first, first + BLOCK):
        if x[j] == _ZERO:
            return x[j]
    return _ZERO


@njit(cache=True, nogil=True, forceinline=True, error_model="numpy")
def _fit_block(x, first, zero, top):
    """The unrounded scale and minimum of a block."""
    if zero:
        return _extreme(x, first) / -np.float32(zero), _ZERO
    low, high = _range(x, first, BLOCK)
    if low == _ZERO:
        low = _first_zero(x, first)
    width = high - low
    # The sign of a zero is open above; ggml subtracts one zero from itself, which gives +0.
    width = width if width != _ZERO else _ZERO
    return width / np.float32(top), low


@njit(cache=True, nogil=True, forceinline=True)
def _code(x, low, id, offset, top):
    """The code of a weight. Where a tiny d has an infinite reciprocal, ggml's is 0."""
    v = (x + low) * id + offset
    v = v if abs(v) < _CODE_LIMIT else _ZERO
    return np.uint8(max(min(np.int32(v), top), np.int32(0)))


@njit(cache=True, nogil=True)
def fit(x, zero, bits, d, low):
    """float32 [blocks * 32] -> float32 [blocks] each: the scale, and the minimum negated."""
    top = np.int32((1 << bits) - 1)
    for b in range(d.size):
        d[b], least = _fit_block(x, b * BLOCK, zero, top)
        low[b] = -least


@njit(cache=True, nogil=True)
def round_codes(x, zero, bits, id, low, codes):
    """float32 [blocks * 32] -> uint8 [blocks * 32]."""
    top = np.int32((1 << bits) - 1)
    offset = np.float32(zero) + _HALF
    for b in range(id.size):
        for j in range(b * BLOCK, (b + 1) * BLOCK):
            codes[j] = _code(x[j], low[b], id[b], offset, top)
