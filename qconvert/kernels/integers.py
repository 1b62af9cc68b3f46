"""Integer codes: x' = (code - zero) * scale, and their bits in 32-bit words."""

from typing import Any

import numpy as np
from numba import float32, int64, njit, types, void

from qconvert.kernels.blocks import BYTES_OUT, FLOATS, FLOATS_OUT, SIGNED_OUT
from qconvert.kernels.simd import WIDTH, greatest, least, load, rint, store_bytes

SIGNED = types.Array(types.int8, 1, "C", readonly=True, aligned=False)
WORDS = types.Array(types.uint32, 1, "C", readonly=True, aligned=False)
WORDS_OUT = types.Array(types.uint32, 1, "C")


@njit(
    void(FLOATS, int64, int64, FLOATS, FLOATS, float32, float32, BYTES_OUT),
    error_model="numpy",
    nogil=True,
    cache=True,
)
def round_codes(
    x: Any,
    columns: int,
    size: int,
    scales: Any,
    zeros: Any,
    low: float,
    high: float,
    codes: Any,
) -> None:
    """The nearest code from `low` to `high` of every weight, ties to even; the bytes of int8.

    scales, zeros: of every group. As compressed-tensors does it: divided, and not multiplied by
    an inverse, which would give other codes where a weight lies midway between two.
    """
    group = 0
    for start in range(0, x.size, columns):
        for first in range(start, start + columns, size):
            scale = scales[group]
            zero = zeros[group]
            end = min(first + size, start + columns)
            whole = end - (end - first) % WIDTH
            for k in range(first, whole, WIDTH):
                value = load(x, k) / scale + zero
                store_bytes(codes, k, rint(greatest(least(value, high), low)))
            for k in range(whole, end):
                value = min(max(x[k] / scale + zero, low), high)
                codes[k] = np.uint8(np.int8(np.rint(value)))
            group += 1


@njit(
    void(SIGNED, int64, int64, FLOATS, FLOATS, FLOATS_OUT),
    error_model="numpy",
    nogil=True,
    cache=True,
)
def dequantize(codes: Any, columns: int, size: int, scales: Any, zeros: Any, x: Any) -> None:
    """The weights of int8 codes, float32."""
    group = 0
    for start in range(0, x.size, columns):
        for first in range(start, start + columns, size):
            scale = scales[group]
            zero = zeros[group]
            for k in range(first, min(first + size, start + columns)):
                x[k] = (np.float32(codes[k]) - zero) * scale
            group += 1


@njit(void(SIGNED, int64, int64, WORDS_OUT), error_model="numpy", nogil=True, cache=True)
def pack(codes: Any, columns: int, bits: int, words: Any) -> None:
    """Lay codes of so many bits in words, lowest bits first; every row begins a word of its own.

    What is stored is the code plus 2**(bits - 1).
    """
    count = (columns * bits + 31) // 32
    offset = np.uint64(1 << (bits - 1))
    mask = np.uint64((1 << bits) - 1)
    at = 0
    for start in range(0, codes.size, columns):
        at = start // columns * count
        held = np.uint64(0)
        used = np.uint64(0)
        for k in range(start, start + columns):
            held |= ((np.uint64(codes[k]) + offset) & mask) << used
            used += np.uint64(bits)
            if used >= np.uint64(32):
                words[at] = np.uint32(held)
                at += 1
                held >>= np.uint64(32)
                used -= np.uint64(32)
        if used > np.uint64(0):
            words[at] = np.uint32(held)


@njit(void(WORDS, int64, int64, SIGNED_OUT), error_model="numpy", nogil=True, cache=True)
def unpack(words: Any, columns: int, bits: int, codes: Any) -> None:
    """The reverse of `pack`."""
    count = (columns * bits + 31) // 32
    offset = np.int64(1 << (bits - 1))
    mask = np.uint64((1 << bits) - 1)
    for start in range(0, codes.size, columns):
        at = start // columns * count
        held = np.uint64(0)
        left = np.uint64(0)
        for k in range(start, start + columns):
            if left < np.uint64(bits):
                held |= np.uint64(words[at]) << left
                at += 1
                left += np.uint64(32)
            codes[k] = np.int8(np.int64(held & mask) - offset)
            held >>= np.uint64(bits)
            left -= np.uint64(bits)
