"""From weights to codes, from these to packed bits, and back: what ggml's formats share."""

from typing import Any

import numpy as np
from numba import float32, int64, njit, void

from qconvert.kernels.blocks import BYTES, BYTES_OUT, FLOATS, FLOATS_OUT, WORDS, WORDS_OUT
from qconvert.kernels.simd import (
    WIDTH,
    fma,
    greatest,
    least,
    load,
    load_digits,
    magnitude,
    rint,
    splat,
    store,
    store_bytes,
    trunc,
    where_less,
)

_ZERO = np.float32(0)
# The largest float32 below one half: adding it and truncating rounds halves away from zero.
_ALMOST_HALF = np.float32(0.49999997)
_CODE_LIMIT = np.float32(256)


@njit(
    void(FLOATS, FLOATS, FLOATS, int64, float32, float32, BYTES_OUT),
    error_model="numpy",
    nogil=True,
    cache=True,
)
def round_even(
    x: Any, per_step: Any, shift: Any, size: int, zero: float, top: float, codes: Any
) -> None:
    """Codes of evenly spaced values: x * per_step + shift, rounded, plus `zero`, 0 to `top`.

    per_step and shift: one for each `size` weights, a multiple of 16.
    """
    for j in range(x.size // size):
        a = splat(per_step[j])
        b = splat(shift[j])
        for k in range(j * size, (j + 1) * size, WIDTH):
            q = rint(fma(a, load(x, k), b)) + zero
            store_bytes(codes, k, greatest(least(q, top), np.float32(0.0)))


@njit(void(FLOATS, FLOATS, int64, int64, BYTES_OUT), error_model="numpy", nogil=True, cache=True)
def round_away(x: Any, per_step: Any, size: int, zero: int, codes: Any) -> None:
    """Codes of evenly spaced values: x * per_step, rounded, halves away from zero, plus `zero`.

    The bytes of int8 or uint8; `zero` for what no code can be, as ggml has it on x86.
    """
    middle = np.float32(zero)
    for j in range(x.size // size):
        for k in range(j * size, (j + 1) * size, WIDTH):
            v = load(x, k) * per_step[j]
            v = where_less(magnitude(v), _CODE_LIMIT, v, _ZERO)
            v = v + where_less(v, _ZERO, -_ALMOST_HALF, _ALMOST_HALF)
            store_bytes(codes, k, trunc(v) + middle)


@njit(
    void(WORDS, int64, int64, int64, WORDS_OUT),
    error_model="numpy",
    nogil=True,
    cache=True,
)
def pack_plane(codes: Any, width: int, bits: int, shift: int, out: Any) -> None:
    """Gather some bits of every code, eight codes at a time, in the bytes of a word.

    Of each code, `bits` bits from bit `shift` on. A byte of `out` holds those of 8 // bits codes,
    lowest first, which are `width` words apart, and the next `width` words of `out` come from the
    codes behind these.
    """
    count = 8 // bits
    mask = np.uint64(((1 << bits) - 1) * 0x0101010101010101)
    down = np.uint64(shift)
    for run in range(out.size // width):
        first = run * width * count
        for k in range(width):
            word = np.uint64(0)
            for i in range(count):
                part = (codes[first + i * width + k] >> down) & mask
                word |= part << np.uint64(bits * i)
            out[run * width + k] = word


@njit(
    void(WORDS, int64, int64, int64, WORDS_OUT),
    error_model="numpy",
    nogil=True,
    cache=True,
)
def unpack_plane(packed: Any, width: int, bits: int, shift: int, codes: Any) -> None:
    """The reverse of `pack_plane`: set those bits of every code, which are 0 at first."""
    count = 8 // bits
    mask = np.uint64(((1 << bits) - 1) * 0x0101010101010101)
    up = np.uint64(shift)
    for run in range(packed.size // width):
        first = run * width * count
        for i in range(count):
            down = np.uint64(bits * i)
            for k in range(width):
                part = (packed[run * width + k] >> down) & mask
                codes[first + i * width + k] |= part << up


@njit(
    void(BYTES, int64, FLOATS, FLOATS, FLOATS, int64, FLOATS_OUT),
    error_model="numpy",
    nogil=True,
    cache=True,
)
def spread(codes: Any, first: int, step: Any, low: Any, values: Any, size: int, x: Any) -> None:
    """x = step * values[code - first] - low, of groups of `size` weights.

    codes: the bytes of int8 or uint8. No fastmath: these floats equal ggml's.
    """
    if np.all(values[1:] - values[:-1] == np.float32(1)):
        shift = values[0] - np.float32(first)
        # Bytes from here on are those of negative codes.
        turn = np.float32(128 if first < 0 else 256)
        for j in range(step.size):
            for k in range(j * size, (j + 1) * size, WIDTH):
                code = load_digits(codes, k, 0, 255)
                code = where_less(code, turn, code, code - _CODE_LIMIT)
                store(x, k, (code + shift) * step[j] - low[j])
        return
    table = np.zeros(256, np.float32)
    for i in range(values.size):
        table[(i + first) & 255] = values[i]
    for j in range(step.size):
        s = step[j]
        m = low[j]
        for k in range(j * size, (j + 1) * size):
            x[k] = s * table[codes[k]] - m
