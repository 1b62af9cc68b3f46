"""What the searches for the scales of compressed-tensors share: groups read, scales rounded."""

from typing import Any

import numpy as np
from numba import njit

from qconvert.kernels.blocks import IMPORTANCE_FLOOR, float16
from qconvert.kernels.floats import bits_of, float_of
from qconvert.kernels.simd import keep_apart, lane, splat

F32 = 0
F16 = 1
BF16 = 2
"""The dtype of scales."""

_ZERO = np.float32(0.0)
_ONE = np.float32(1.0)
_INFINITE = np.float32(np.inf)
_BF16_SPLIT = np.float32(2**16 + 1)
_LARGEST_UNIT = np.float32(2.0**100)


@njit(error_model="numpy")
def round_scale(v: Any, dtype: int) -> Any:
    """One finite scale as `dtype` holds it, exactly."""
    if dtype == F16:
        return lane(float16(splat(v)), 0)
    if dtype == BF16:
        bits = bits_of(v)
        return float_of((bits + np.uint32(0x7FFF) + ((bits >> 16) & 1)) & np.uint32(0xFFFF0000))
    return v


@njit(error_model="numpy", inline="always")
def shortened(v: Any, factor: Any) -> Any:
    """Lanes rounded to fewer bits of mantissa, by Dekker's split; n fewer for 2**n + 1."""
    high = v * factor
    return high - (high - v)


@njit(error_model="numpy")
def round_scales(s: Any, unit: Any, dtype: int) -> Any:
    """Lanes as `dtype` holds them times `unit`, extremes excepted."""
    if dtype == F16:
        return float16(s * unit) / unit
    if dtype == BF16:
        return shortened(s, _BF16_SPLIT)
    return s


@njit(error_model="numpy")
def read_group(
    x: Any, start: int, importance: Any, column: int, size: int, xs: Any, ws: Any, ends: Any
) -> Any:
    """Copy a group into xs, near 1, and its importances into ws, at most 1.

    Leaves its least and greatest weights, or 0, in `ends`, and whether importance has a say (not
    where it is empty, or zero throughout). Where it is zero in places, the weights there count for
    next to nothing. Returns the power of two that was divided out.
    """
    keep_apart()
    low = _ZERO
    high = _ZERO
    heaviest = _ZERO
    for k in range(size):
        low = min(low, x[start + k])
        high = max(high, x[start + k])
    if importance.size > 0:
        for k in range(size):
            heaviest = max(heaviest, importance[column + k])
    weighted = heaviest > _ZERO and heaviest < _INFINITE
    bits = bits_of(max(-low, high)) & np.uint32(0x7F800000)
    # Inverses of powers of two up to this one are no subnormals.
    unit = min(max(float_of(bits), _ONE / _LARGEST_UNIT), _LARGEST_UNIT)
    down = _ONE / unit
    share = _ONE / heaviest if weighted else _ZERO
    for k in range(size):
        xs[k] = x[start + k] * down
        ws[k] = max(importance[column + k] * share, IMPORTANCE_FLOOR) if weighted else _ONE
    ends[0] = low * down
    ends[1] = high * down
    ends[2] = _ONE if weighted else _ZERO
    return unit
