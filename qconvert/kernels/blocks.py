"""What every scale search shares: reading a block, and rounding scales as float16 stores them.

A search works on a block brought to a magnitude near one by a power of two, so that squares
neither overflow nor vanish, whatever the size of the weights.
"""

import math
from typing import Any

import numpy as np
from numba import njit, types

from qconvert.kernels.simd import (
    WIDTH,
    greatest,
    highest,
    least,
    load,
    magnitude,
    splat,
    store,
    where_less,
)

# Read-only and unaligned views (of mapped files) pass as well as fresh arrays do, and one
# signature is compiled for all of them.
FLOATS = types.Array(types.float32, 1, "C", readonly=True, aligned=False)
BYTES = types.Array(types.uint8, 1, "C", readonly=True, aligned=False)
WORDS = types.Array(types.uint64, 1, "C", readonly=True, aligned=False)
HALVES = types.Array(types.uint16, 1, "C", readonly=True)

FLOATS_OUT = types.Array(types.float32, 1, "C")
BYTES_OUT = types.Array(types.uint8, 1, "C")
WORDS_OUT = types.Array(types.uint64, 1, "C")
SIGNED_OUT = types.Array(types.int8, 1, "C")

FLOAT16_MAX = np.float32(65504.0)
_FLOAT16_NORMAL = np.float32(2.0**-14)
_SPLIT = np.float32(2**13 + 1)
_SUBNORMAL = np.float32(0.75)
_ZERO = np.float32(0.0)
_ONE = np.float32(1.0)
_TINY = np.float32(1e-37)
_INFINITE = np.float32(np.inf)
_EXPONENT_LIMIT = 100
IMPORTANCE_FLOOR = np.float32(1e-10)


@njit(error_model="numpy", forceinline=True)
def inverse(step: Any) -> Any:
    """1 / step lane by lane, and 0 where the step is 0."""
    return where_less(magnitude(step), _TINY, _ZERO, _ONE / step)


@njit(error_model="numpy", forceinline=True)
def float16(v: Any) -> Any:
    """Lanes rounded to what float16 holds, the largest finite value at most."""
    v = greatest(least(v, FLOAT16_MAX), -FLOAT16_MAX)
    # Dekker's split: the sum with a multiple drops the lowest 13 bits of the mantissa.
    high = v * _SPLIT
    normal = high - (high - v)
    # Beside 0.75, float32 steps as float16 does below its normal range.
    subnormal = (v + _SUBNORMAL) - _SUBNORMAL
    return where_less(v * v, _FLOAT16_NORMAL * _FLOAT16_NORMAL, subnormal, normal)


@njit(error_model="numpy")
def heaviest_of(importance: Any, column: int, size: int) -> Any:
    """The largest importance of a block; 0 where importance has no say."""
    heaviest = _ZERO
    if importance.size > 0:
        tops = splat(_ZERO)
        for k in range(0, size, WIDTH):
            tops = greatest(load(importance, column + k), tops)
        heaviest = highest(tops)
    return heaviest if heaviest < _INFINITE else _ZERO


@njit(error_model="numpy")
def read_block(
    x: Any, start: int, importance: Any, column: int, size: int, xs: Any, ws: Any
) -> Any:
    """Copy a block into xs, near 1, and its importances into ws, at most 1.

    Returns the power of two that was divided out of the block. Where importance has no say (it is
    empty, or zero throughout), all weights count alike; where it is zero in places, the weights
    there count for next to nothing, but still get sensible codes.
    """
    tops = splat(_ZERO)
    for k in range(0, size, WIDTH):
        tops = greatest(magnitude(load(x, start + k)), tops)
    top = highest(tops)
    exponent = np.intp(0)
    if top < _INFINITE:
        exponent = math.frexp(top)[1]
    if exponent > _EXPONENT_LIMIT:
        exponent = _EXPONENT_LIMIT
    elif exponent < -_EXPONENT_LIMIT:
        exponent = -_EXPONENT_LIMIT
    unit = np.float32(math.ldexp(1.0, exponent))
    down = np.float32(math.ldexp(1.0, -exponent))
    for k in range(0, size, WIDTH):
        store(xs, k, load(x, start + k) * down)
    heaviest = heaviest_of(importance, column, size)
    if heaviest > _ZERO:
        share = _ONE / heaviest
        for k in range(0, size, WIDTH):
            store(ws, k, greatest(load(importance, column + k) * share, IMPORTANCE_FLOOR))
    else:
        for k in range(0, size, WIDTH):
            store(ws, k, splat(_ONE))
    return unit
