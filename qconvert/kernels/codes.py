"""From weights and scales to codes, and from codes to packed bits: shared by K and IQ4 formats."""

from typing import Any

import numpy as np
from numba import float32, int64, njit, void

from qconvert.kernels.blocks import BYTES_OUT, FLOATS, WORDS, WORDS_OUT
from qconvert.kernels.simd import WIDTH, fma, greatest, least, load, rint, splat, store_bytes


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
