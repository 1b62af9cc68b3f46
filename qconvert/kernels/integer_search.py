"""Search for the scale and the zero point of integer codes with the least weighted squared error.

A group stands as x' = (code - zero) * scale. With the zero point given, q = code - zero goes from
a to b, a window of whole numbers around zero:

1. For each window, trial scales, as shares of the one that covers the group. The codes of each
   give, by least squares, a real scale and its error.
2. The best of them is rounded as it is stored, along with scales near it, and all weights are
   rounded anew. This is repeated from the least squares scale of the best.
3. What came out is kept where it is better than the scale and zero point that were there.

Sixteen scales are tried at a time, one a lane. Symmetric codes have two windows: the usual one
and its mirror image, where the scale is negative.
"""

from typing import Any

import numpy as np
from numba import boolean, float32, int64, njit, void

from qconvert.kernels.blocks import FLOATS, FLOATS_OUT, inverse
from qconvert.kernels.groups import read_group, round_scale, round_scales
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
    rint,
    splat,
    store,
    where_less,
)

_ZERO = np.float32(0.0)
_ONE = np.float32(1.0)
_INFINITE = np.float32(np.inf)


@njit(error_model="numpy")
def _errors(xs: Any, ws: Any, size: int, s: Any, a: Any, b: Any, sums: Any) -> None:
    """Of the codes that each lane's scale gives, the sums of w e e, w e q and w q q, where e is
    x' - x. Lanes without a scale, 0, round all to zero."""
    keep_apart()
    per_s = inverse(s)
    ee = splat(_ZERO)
    eq = splat(_ZERO)
    qq = splat(_ZERO)
    for k in range(size):
        x = at(xs, k)
        q = greatest(least(rint(per_s * x), b), a)
        e = fma(s, q, _ZERO - x)
        w = at(ws, k)
        wq = w * q
        ee = fma(w * e, e, ee)
        eq = fma(wq, e, eq)
        qq = fma(wq, q, qq)
    store(sums, 0, ee)
    store(sums, WIDTH, eq)
    store(sums, 2 * WIDTH, qq)


@njit(error_model="numpy")
def _cover(low: Any, high: Any, a: Any, b: Any) -> Any:
    """The scale that makes a window cover a range; of one side where the other has no codes."""
    up = high / b if b > _ZERO else _ZERO
    down = low / a if a < _ZERO else _ZERO
    return max(up, down)


@njit(error_model="numpy")
def _try_window(
    xs: Any, ws: Any, size: int, cover: Any, a: Any, b: Any, trials: Any, sums: Any, best: Any
) -> Any:
    """Step 1: whether this window has a better scale; then it and its error stand in `best`."""
    keep_apart()
    better = False
    for part in range(0, trials.size, WIDTH):
        s = load(trials, part) * cover
        _errors(xs, ws, size, s, a, b, sums)
        per_qq = inverse(load(sums, 2 * WIDTH))
        eq = load(sums, WIDTH)
        error = load(sums, 0) - eq * eq * per_qq
        s = s - eq * per_qq
        error = where_less(_ZERO, s, error, _INFINITE)
        i = argmin(error)
        if lane(error, i) < best[1]:
            best[0] = lane(s, i)
            best[1] = lane(error, i)
            better = True
    return better


@njit(error_model="numpy")
def _settle(
    xs: Any,
    ws: Any,
    size: int,
    fitted: Any,
    a: Any,
    b: Any,
    unit: Any,
    dtype: int,
    moves: Any,
    sums: Any,
) -> Any:
    """Step 2: the best scale that can be stored; 0 if there is none."""
    keep_apart()
    best = _INFINITE
    chosen = _ZERO
    for part in range(0, moves.size, WIDTH):
        s = round_scales(load(moves, part) * fitted, unit, dtype)
        _errors(xs, ws, size, s, a, b, sums)
        i = argmin(load(sums, 0))
        if sums[i] < best:
            best = sums[i]
            chosen = lane(s, i)
            qq = sums[2 * WIDTH + i]
            fitted = chosen - sums[WIDTH + i] / qq if qq > _ZERO else chosen
    return chosen


@njit(error_model="numpy")
def _true_error(
    x: Any,
    importance: Any,
    start: int,
    column: int,
    size: int,
    scale: Any,
    zero: Any,
    low: Any,
    high: Any,
    weighted: Any,
) -> Any:
    """The error of the codes that rounding gives, to the last bit of a double."""
    keep_apart()
    error = 0.0
    for k in range(size):
        value = x[start + k]
        code = np.rint(min(max(value / scale + zero, low), high))
        e = np.float64((code - zero) * scale) - np.float64(value)
        error += e * e * np.float64(importance[column + k]) if weighted > _ZERO else e * e
    return error


@njit(
    void(
        *(FLOATS, FLOATS, int64, int64, float32, float32, boolean, int64),
        *(FLOATS, FLOATS, FLOATS, FLOATS_OUT, FLOATS_OUT),
    ),
    error_model="numpy",
    nogil=True,
    cache=True,
)
def search(
    x: Any,
    importance: Any,
    columns: int,
    size: int,
    low: float,
    high: float,
    symmetric: bool,
    dtype: int,
    trials: Any,
    shifts: Any,
    moves: Any,
    scales: Any,
    zeros: Any,
) -> None:
    """Better the scales and zero points of every group, float32.

    low, high: the range of codes; dtype: F32, F16 or BF16 of scales.
    trials: step 1, shares of the covering scale, 0 for none. shifts: what is added to zero points
    for the windows to try; without zero points 0 and 1, for the window and its mirror image.
    moves: step 2, factors on the scale. trials and moves come in sixteens.
    """
    xs = np.empty(size, np.float32)
    ws = np.empty(size, np.float32)
    sums = np.empty(3 * WIDTH, np.float32)
    best = np.empty(2, np.float32)
    ends = np.empty(3, np.float32)
    group = 0
    for start in range(0, x.size, columns):
        for column in range(0, columns, size):
            count = min(size, columns - column)
            first = start + column
            unit = read_group(x, first, importance, column, count, xs, ws, ends)
            best[1] = _INFINITE
            sign = _ONE
            zero = _ZERO
            a = low
            b = high
            for shift in shifts:
                z = _ZERO if symmetric else zeros[group] + shift
                if z < low or z > high:
                    continue
                mirrored = symmetric and shift > _ZERO
                lowest = -high if mirrored else low - z
                highest = -low if mirrored else high - z
                cover = _cover(ends[0], ends[1], lowest, highest)
                if _try_window(xs, ws, count, cover, lowest, highest, trials, sums, best):
                    sign = -_ONE if mirrored else _ONE
                    zero = z
                    a = lowest
                    b = highest
            if best[1] < _INFINITE:
                s = _settle(xs, ws, count, best[0], a, b, unit, dtype, moves, sums)
                s = round_scale(sign * s * unit, dtype)
                if abs(s) > _ZERO and abs(s) < _INFINITE:
                    there = _true_error(
                        *(x, importance, first, column, count),
                        *(scales[group], zeros[group], low, high, ends[2]),
                    )
                    ours = _true_error(
                        *(x, importance, first, column, count),
                        *(s, zero, low, high, ends[2]),
                    )
                    if ours < there:
                        scales[group] = s
                        zeros[group] = zero
            group += 1
