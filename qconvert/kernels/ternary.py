"""Inner loops of TQ1_0 and TQ2_0: a float16 scale and 256 codes 0, 1, 2 for -d, 0, +d.

No fastmath: these bytes equal ggml's, rounding by rounding.
"""

# mypy: disable-error-code="no-untyped-def"

import numpy as np
from numba import njit

from qconvert.kernels.floats import half_bits, half_value
from qconvert.kernels.legacy import get16, magnitude, put16, reciprocal, round_half_away, stored

BLOCK = 256


@njit(cache=True, nogil=True)
def fit(x, d, id):
    """float32 [blocks * 256] -> float32 [blocks] each: d as stored, and what rounds by it."""
    for b in range(d.size):
        scale = magnitude(x, b * BLOCK, BLOCK)
        d[b] = stored(scale)
        id[b] = reciprocal(scale)


@njit(cache=True, nogil=True)
def round_codes(x, id, codes):
    """float32 [blocks * 256] -> uint8 [blocks * 256]."""
    for b in range(id.size):
        for j in range(b * BLOCK, (b + 1) * BLOCK):
            codes[j] = np.uint8(round_half_away(x[j] * id[b]) + 1)


@njit(cache=True, nogil=True)
def _put_trits(codes, first, width, count, out, at):
    """`count` codes a byte, `width` apart, as a fraction of 243 in 256ths, rounded up."""
    for j in range(width):
        q = np.uint32(0)
        for n in range(5):
            code = codes[first + j + n * width] if n < count else np.uint8(0)
            q = np.uint32(q * 3 + code)
        out[at + j] = np.uint8((q * 256 + 242) // 243)


@njit(cache=True, nogil=True)
def _put_tq1_0(codes, first, d, out, at):
    _put_trits(codes, first, 32, 5, out, at)
    _put_trits(codes, first + 160, 16, 5, out, at + 32)
    _put_trits(codes, first + 240, 4, 4, out, at + 48)
    put16(out, at + 52, half_bits(d))


@njit(cache=True, nogil=True)
def _put_tq2_0(codes, first, d, out, at):
    for half in range(2):
        for j in range(32):
            k = first + half * 128 + j
            q = codes[k] | (codes[k + 32] << 2) | (codes[k + 64] << 4) | (codes[k + 96] << 6)
            out[at + half * 32 + j] = np.uint8(q)
    put16(out, at + 64, half_bits(d))


@njit(cache=True, nogil=True)
def pack(codes, d, trits, out):
    """uint8 [blocks * 256] -> uint8 [blocks * 54], or [blocks * 66] if not `trits`."""
    for b in range(d.size):
        if trits:
            _put_tq1_0(codes, b * BLOCK, d[b], out, b * 54)
        else:
            _put_tq2_0(codes, b * BLOCK, d[b], out, b * 66)


@njit(cache=True, nogil=True)
def quantize(x, trits, out):
    """float32 [blocks * 256] -> uint8 [blocks * 54], or [blocks * 66] if not `trits`."""
    codes = np.empty(BLOCK, np.uint8)
    for b in range(x.size // BLOCK):
        d = magnitude(x, b * BLOCK, BLOCK)
        id = reciprocal(d)
        for j in range(BLOCK):
            codes[j] = np.uint8(round_half_away(x[b * BLOCK + j] * id) + 1)
        if trits:
            _put_tq1_0(codes, 0, d, out, b * 54)
        else:
            _put_tq2_0(codes, 0, d, out, b * 66)


@njit(cache=True, nogil=True)
def _get_trits(packed, at, width, count, d, out, first):
    power = np.uint32(1)
    for n in range(count):
        for j in range(width):
            # Multiplying moves the wanted trit to the front; what overflows is spent.
            q = np.uint32((packed[at + j] * power) & 0xFF)
            out[first + n * width + j] = np.float32(np.int32((q * 3) >> 8) - 1) * d
        power = np.uint32(power * 3)


@njit(cache=True, nogil=True)
def dequantize_tq1_0(packed, out):
    """uint8 [blocks * 54] -> float32 [blocks * 256]."""
    for b in range(out.size // BLOCK):
        at = b * 54
        d = half_value(get16(packed, at + 52))
        _get_trits(packed, at, 32, 5, d, out, b * BLOCK)
        _get_trits(packed, at + 32, 16, 5, d, out, b * BLOCK + 160)
        _get_trits(packed, at + 48, 4, 4, d, out, b * BLOCK + 240)


@njit(cache=True, nogil=True)
def dequantize_tq2_0(packed, out):
    """uint8 [blocks * 66] -> float32 [blocks * 256]."""
    for b in range(out.size // BLOCK):
        at = b * 66
        d = half_value(get16(packed, at + 64))
        for half in range(2):
            for n in range(4):
                for j in range(32):
                    q = np.int32((packed[at + half * 32 + j] >> (2 * n)) & 3)
                    out[b * BLOCK + half * 128 + n * 32 + j] = np.float32(q - 1) * d
