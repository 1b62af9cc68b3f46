"""Search for the scale of e4m3fn codes with the least weighted squared error.

Sixteen scales are tried at a time, one a lane; the best is kept where it is better than the one
that was there.
"""

from typing import Any

import numpy as np
from numba import int64, njit, void

from qconvert.kernels.blocks import FLOATS, FLOATS_OUT, inverse
from qconvert.kernels.floats import float_of
from qconvert.kernels.fp8 import e4m3_bits
from qconvert.kernels.groups import read_group, round_scale, round_scales, shortened
from qconvert.kernels.simd import (
    WIDTH,
    argmin,
    at,
    fma,
    greatest,
    keep_apart,
    lane,
    least,
    load,
    splat,
    store,
    where_less,
)

_ZERO = np.float32(0.0)
_INFINITE = np.float32(np.inf)
_TOP = np.float32(448.0)
_NORMAL_SQUARE = np.float32(2.0**-12)
_SPLIT = np.float32(2**20 + 1)
# Beside it, float32 steps as the subnormals do, by 2**-9.
_SUBNORMAL = np.float32(1.5 * 2**14)


@njit(error_model="numpy")
def _errors(xs: Any, ws: Any, size: int, s: Any, sums: Any) -> None:
    """Of the codes under each lane's scale, the sums of w e e, w e q and w q q; e is x' - x."""
    keep_apart()
    per_s = inverse(s)
    ee = splat(_ZERO)
    eq = splat(_ZERO)
    qq = splat(_ZERO)
    for k in range(size):
        x = at(xs, k)
        v = greatest(least(per_s * x, _TOP), -_TOP)
        small = (v + _SUBNORMAL) - _SUBNORMAL
        q = where_less(v * v, _NORMAL_SQUARE, small, shortened(v, _SPLIT))
        e = fma(s, q, _ZERO - x)
        w = at(ws, k)
        wq = w * q
        ee = fma(w * e, e, ee)
        eq = fma(wq, e, eq)
        qq = fma(wq, q, qq)
    store(sums, 0, ee)
    store(sums, WIDTH, eq)
    store(sums, 2 * WIDTH, qq)


@njit(error_model="numpy", inline="always")
def _value(bits: Any) -> Any:
    """The float32 that 8 bits of e4m3fn stand for; NaN is not asked for."""
    a = np.uint32(bits & 0x7F)
    normal = float_of((a << 20) + np.uint32(0x3C000000))
    value = np.float32(a) * np.float32(2.0**-9) if a < 8 else normal
    return -value if bits & 0x80 else value


@njit(error_model="numpy")
def _true_error(
    x: Any, importance: Any, start: int, column: int, size: int, s: Any, weighted: Any
) -> Any:
    """The error of the codes that rounding gives, to the last bit of a double."""
    keep_apart()
    error = 0.0
    for k in range(size):
        q = _value(e4m3_bits(x[start + k] / s))
        e = np.float64(q * s) - np.float64(x[start + k])
        error += e * e * np.float64(importance[column + k]) if weighted > _ZERO else e * e
    return error


@njit(
    void(FLOATS, FLOATS, int64, int64, int64, FLOATS, FLOATS_OUT),
    error_model="numpy",
    nogil=True,
    cache=True,
)
def search(
    x: Any, importance: Any, columns: int, size: int, dtype: int, trials: Any, scales: Any
) -> None:
    """Better the scales, float32, of every group.

    dtype: F32, F16 or BF16 of scales. trials: in sixteens, shares of the scale at hand to try;
    after each sixteen they are shares of the least squares scale of the best one.
    """
    xs = np.empty(size, np.float32)
    ws = np.empty(size, np.float32)
    sums = np.empty(3 * WIDTH, np.float32)
    ends = np.empty(3, np.float32)
    group = 0
    for start in range(0, x.size, columns):
        for column in range(0, columns, size):
            count = min(size, columns - column)
            first = start + column
            unit = read_group(x, first, importance, column, count, xs, ws, ends)
            base = scales[group] / unit
            best = _INFINITE
            chosen = _ZERO
            for part in range(0, trials.size, WIDTH):
                s = round_scales(load(trials, part) * base, unit, dtype)
                _errors(xs, ws, count, s, sums)
                i = argmin(load(sums, 0))
                if sums[i] < best:
                    best = sums[i]
                    chosen = lane(s, i)
                    qq = sums[2 * WIDTH + i]
                    base = chosen - sums[WIDTH + i] / qq if qq > _ZERO else chosen
            chosen = round_scale(chosen * unit, dtype)
            if chosen > _ZERO and chosen < _INFINITE:
                there = _true_error(x, importance, first, column, count, scales[group], ends[2])
                ours = _true_error(x, importance, first, column, count, chosen, ends[2])
                if ours < there:
                    scales[group] = chosen
            group += 1
