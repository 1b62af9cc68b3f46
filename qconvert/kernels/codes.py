"""From weights and scales to codes, and from codes to packed bits: shared by K and IQ4 formats."""

from typing import Any

import numpy as np
from numba import float32, int64, njit, void

from qconvert.kernels.blocks import BYTES, BYTES_OUT, FLOATS
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
    void(BYTES, int64, int64, int64, int64, int64, int64, BYTES_OUT),
    error_model="numpy",
    nogil=True,
    cache=True,
)
def pack_plane(
    codes: Any,
    block: int,
    width: int,
    bits: int,
    shift: int,
    offset: int,
    block_bytes: int,
    out: Any,
) -> None:
    """Put some bits of every code into the blocks.

    Of each code, `bits` bits from bit `shift` on. A byte holds those of 8 // bits codes, lowest
    first, which are `width` apart: byte l of a run of `width` bytes has codes l, width + l, ...
    The plane lies `offset` bytes into each block.
    """
    count = 8 // bits
    mask = np.uint8((1 << bits) - 1)
    for b in range(codes.size // block):
        place = b * block_bytes + offset
        for first in range(b * block, (b + 1) * block, width * count):
            for k in range(width):
                out[place + k] = (codes[first + k] >> shift) & mask
            for i in range(1, count):
                for k in range(width):
                    part = (codes[first + i * width + k] >> shift) & mask
                    out[place + k] |= np.uint8(part << (bits * i))
            place += width
