"""Inner loops of the formats with blocks of 32: Q4_0, Q4_1, Q5_0, Q5_1 and Q8_0.

The four of 4 and 5 bits are one: a weight is code * d + m, where Q4_0 and Q5_0 store no m and
count their codes from the middle. The caller says which by `zero` (the code of 0: 8, 16, or 0),
`bits` (4 or 5) and `minima` (whether m is stored). Arrays are flat, blocks one after the other.

No fastmath: these bytes equal ggml's, rounding by rounding.
"""

# mypy: disable-error-code="no-untyped-def"

import numpy as np
from numba import njit

from qconvert.kernels.floats import half_bits, half_value

BLOCK = 32
HALF_BLOCK = 16
_ONE = np.float32(1)
_ZERO = np.float32(0)
_HALF = np.float32(0.5)
# The largest float32 below one half: adding it and truncating rounds halves away from zero.
_ALMOST_HALF = np.float32(0.49999997)
_CODE_LIMIT = np.float32(256)


@njit(cache=True, nogil=True, forceinline=True)
def stored(value):
    """A float32 as its float16 gives it back."""
    return half_value(half_bits(value))


@njit(cache=True, nogil=True, forceinline=True, error_model="numpy")
def reciprocal(d):
    """1 / d, and 0 for 0; infinite where d is too small."""
    return _ONE / d if d != _ZERO else _ZERO


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
def round_half_away(v):
    """The nearest integer, as int32; 0 for what no code can be, as ggml has it on x86."""
    v = v if abs(v) < _CODE_LIMIT else _ZERO
    return np.int32(v + (_ALMOST_HALF if v >= _ZERO else -_ALMOST_HALF))


@njit(cache=True, nogil=True, forceinline=True)
def _code(x, low, id, offset, top):
    """The code of a weight. Where a tiny d has an infinite reciprocal, ggml's is 0."""
    v = (x - low) * id + offset
    v = v if abs(v) < _CODE_LIMIT else _ZERO
    return np.uint8(max(min(np.int32(v), top), np.int32(0)))


@njit(cache=True, nogil=True, forceinline=True)
def put16(out, at, value):
    out[at] = np.uint8(value & 0xFF)
    out[at + 1] = np.uint8(value >> 8)


@njit(cache=True, nogil=True, forceinline=True)
def get16(packed, at):
    return np.uint16(packed[at] | (np.uint32(packed[at + 1]) << 8))


@njit(cache=True, nogil=True, forceinline=True)
def _put32(out, at, value):
    put16(out, at, value & 0xFFFF)
    put16(out, at + 2, value >> 16)


@njit(cache=True, nogil=True, forceinline=True)
def _put_params(out, at, d, m, minima):
    """Write d and, if stored, m; gives where the codes start."""
    put16(out, at, half_bits(d))
    if minima:
        put16(out, at + 2, half_bits(m))
    return at + (4 if minima else 2)


@njit(cache=True, nogil=True, forceinline=True)
def _fifth_bits(p, q, j):
    """The upper bits of two codes, of weights j and j + 16, where qh has them."""
    return np.uint32(np.uint32((p >> 4) << np.uint32(j)) | ((q >> 4) << np.uint32(j + 16)))


@njit(cache=True, nogil=True)
def quantize(x, zero, bits, minima, out):
    """float32 [blocks * 32] -> uint8 [blocks * size]."""
    blocks = x.size // BLOCK
    size = out.size // max(blocks, 1)
    top = np.int32((1 << bits) - 1)
    offset = np.float32(zero) + _HALF
    for b in range(blocks):
        d, low = _fit_block(x, b * BLOCK, zero, top)
        id = reciprocal(d)
        at = _put_params(out, b * size, d, low, minima)
        first = b * BLOCK
        high = np.uint32(0)
        if bits == 5:
            for j in range(HALF_BLOCK):
                p = np.uint32(_code(x[first + j], low, id, offset, top))
                q = np.uint32(_code(x[first + HALF_BLOCK + j], low, id, offset, top))
                high |= _fifth_bits(p, q, j)
                out[at + 4 + j] = np.uint8((p & 15) | ((q & 15) << 4))
            _put32(out, at, high)
        else:
            for j in range(HALF_BLOCK):
                p = np.uint32(_code(x[first + j], low, id, offset, top))
                q = np.uint32(_code(x[first + HALF_BLOCK + j], low, id, offset, top))
                out[at + j] = np.uint8(p | (q << 4))


@njit(cache=True, nogil=True)
def fit(x, zero, bits, d, m, id, low):
    """float32 [blocks * 32] -> float32 [blocks] each: d and m as stored, what rounds by them."""
    top = np.int32((1 << bits) - 1)
    for b in range(d.size):
        scale, minimum = _fit_block(x, b * BLOCK, zero, top)
        d[b] = stored(scale)
        m[b] = stored(minimum)
        id[b] = reciprocal(scale)
        low[b] = minimum


@njit(cache=True, nogil=True)
def round_codes(x, zero, bits, id, low, codes):
    """float32 [blocks * 32] -> uint8 [blocks * 32]."""
    top = np.int32((1 << bits) - 1)
    offset = np.float32(zero) + _HALF
    for b in range(id.size):
        for j in range(b * BLOCK, (b + 1) * BLOCK):
            codes[j] = _code(x[j], low[b], id[b], offset, top)


@njit(cache=True, nogil=True)
def pack(codes, bits, minima, d, m, out):
    """uint8 [blocks * 32] -> uint8 [blocks * size]."""
    size = out.size // max(d.size, 1)
    for b in range(d.size):
        at = _put_params(out, b * size, d[b], m[b], minima)
        first = b * BLOCK
        if bits == 5:
            high = np.uint32(0)
            for j in range(HALF_BLOCK):
                high |= _fifth_bits(
                    np.uint32(codes[first + j]), np.uint32(codes[first + HALF_BLOCK + j]), j
                )
            _put32(out, at, high)
            at += 4
        for j in range(HALF_BLOCK):
            p = codes[first + j] & 15
            q = codes[first + HALF_BLOCK + j] & 15
            out[at + j] = np.uint8(p | (q << 4))


@njit(cache=True, nogil=True)
def dequantize(packed, zero, bits, minima, out):
    """uint8 [blocks * size] -> float32 [blocks * 32]."""
    blocks = out.size // BLOCK
    size = packed.size // max(blocks, 1)
    for b in range(blocks):
        at = b * size
        d = half_value(get16(packed, at))
        at += 2
        m = -_ZERO  # the one addend that changes nothing, not even the sign of a zero
        if minima:
            m = half_value(get16(packed, at))
            at += 2
        high = np.uint32(0)
        if bits == 5:
            high = np.uint32(get16(packed, at) | (np.uint32(get16(packed, at + 2)) << 16))
            at += 4
        for j in range(HALF_BLOCK):
            byte = np.uint32(packed[at + j])
            low = np.int32((byte & 15) | (((high >> np.uint32(j)) << 4) & 16))
            up = np.int32((byte >> 4) | ((high >> np.uint32(j + 12)) & 16))
            out[b * BLOCK + j] = d * np.float32(np.int32(low - zero)) + m
            out[b * BLOCK + HALF_BLOCK + j] = d * np.float32(np.int32(up - zero)) + m


@njit(cache=True, nogil=True, forceinline=True)
def magnitude(x, first, size):
    """The largest absolute value of a run."""
    low, high = _range(x, first, size)
    return abs(max(high, -low))


@njit(cache=True, nogil=True, forceinline=True, error_model="numpy")
def _q8_scale(x, first):
    return magnitude(x, first, BLOCK) / np.float32(127)


@njit(cache=True, nogil=True)
def quantize_q8_0(x, out):
    """float32 [blocks * 32] -> uint8 [blocks * 34]."""
    for b in range(x.size // BLOCK):
        d = _q8_scale(x, b * BLOCK)
        id = reciprocal(d)
        put16(out, b * 34, half_bits(d))
        for j in range(BLOCK):
            out[b * 34 + 2 + j] = np.uint8(round_half_away(x[b * BLOCK + j] * id))


@njit(cache=True, nogil=True)
def fit_q8_0(x, d, id):
    """float32 [blocks * 32] -> float32 [blocks] each: d as stored, and what rounds by it."""
    for b in range(d.size):
        scale = _q8_scale(x, b * BLOCK)
        d[b] = stored(scale)
        id[b] = reciprocal(scale)


@njit(cache=True, nogil=True)
def round_q8_0(x, id, codes):
    """float32 [blocks * 32] -> int8 [blocks * 32]."""
    for b in range(id.size):
        for j in range(b * BLOCK, (b + 1) * BLOCK):
            codes[j] = np.int8(round_half_away(x[j] * id[b]))


@njit(cache=True, nogil=True)
def pack_q8_0(codes, d, out):
    """int8 [blocks * 32] -> uint8 [blocks * 34]."""
    for b in range(d.size):
        put16(out, b * 34, half_bits(d[b]))
        for j in range(BLOCK):
            out[b * 34 + 2 + j] = np.uint8(codes[b * BLOCK + j])


@njit(cache=True, nogil=True)
def dequantize_q8_0(packed, out):
    """uint8 [blocks * 34] -> float32 [blocks * 32]."""
    for b in range(out.size // BLOCK):
        d = half_value(get16(packed, b * 34))
        for j in range(BLOCK):
            out[b * BLOCK + j] = np.float32(np.int8(packed[b * 34 + 2 + j])) * d
