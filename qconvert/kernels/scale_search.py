"""Search for the scale, and the zero point, of codes with the least weighted squared error.

A group stands as x' = q * scale, where q is an e4m3fn or e2m1 number, or code - zero of integer
codes. With the zero point given these go from a to b, a window of whole numbers around zero:

1. Of integers: for each window, trial scales, as shares of the one that covers the group. The
   codes of each give, by least squares, a real scale and its error.
2. The best of them, or the scale at hand, is rounded as it is stored, along with scales near it,
   and all weights are rounded anew. This is repeated from the least squares scale of the best.
3. What came out is kept where it is better than the scale and zero point that were there.

Sixteen scales are tried at a time, one a lane. Symmetric codes have two windows: the usual one
and its mirror image, where the scale is negative. Where only the scales of a table can be stored,
sixteen of these are tried.
"""

from typing import Any

import numpy as np
from numba import boolean, float32, int64, njit, types, void

from qconvert.kernels.blocks import FLOATS, FLOATS_OUT, inverse
from qconvert.kernels.floats import float_of
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
    rint,
    splat,
    store,
    where_less,
)
from qconvert.kernels.small_floats import E2M1, E4M3, e2m1_code, e4m3_bits

INTEGER = 0
"""What codes are, beside E4M3 and E2M1."""

INDICES_OUT = types.Array(types.int32, 1, "C")
_ZERO = np.float32(0.0)
_ONE = np.float32(1.0)
_INFINITE = np.float32(np.inf)
_E2M1_TOP = np.float32(6.0)
_E2M1_VALUES = np.array([0, 0.5, 1, 1.5, 2, 3, 4, 6, 0, -0.5, -1, -1.5, -2, -3, -4, -6], np.float32)
# Of each kind of floats: its least normal number squared, what splits off the bits that it lacks,
# and what float32 steps beside as the numbers below the normal ones do.
_E4M3_FORM = (np.float32(2.0**-12), np.float32(2**20 + 1), np.float32(1.5 * 2**14))
_E2M1_FORM = (_ONE, np.float32(2**22 + 1), np.float32(1.5 * 2**22))


@njit(error_model="numpy", forceinline=True)
def _nearest_lanes(v: Any, kind: int, a: Any, b: Any) -> Any:
    """The nearest number from a to b that a code stands for, lane by lane."""
    if kind == INTEGER:
        return greatest(least(rint(v), b), a)
    square, split, step = _E4M3_FORM if kind == E4M3 else _E2M1_FORM
    v = greatest(least(v, b), a)
    return where_less(v * v, square, (v + step) - step, shortened(v, split))


@njit(error_model="numpy", forceinline=True)
def _sums(xs: Any, ws: Any, size: int, s: Any, kind: int, a: Any, b: Any) -> Any:
    """Of the codes that each lane's scale gives, the sums of w e e, w e q and w q q, where e is
    x' - x. Lanes without a scale, 0, round all to zero."""
    per_s = inverse(s)
    ee = splat(_ZERO)
    eq = splat(_ZERO)
    qq = splat(_ZERO)
    for k in range(size):
        x = at(xs, k)
        q = _nearest_lanes(per_s * x, kind, a, b)
        e = fma(s, q, _ZERO - x)
        w = at(ws, k)
        wq = w * q
        ee = fma(w * e, e, ee)
        eq = fma(wq, e, eq)
        qq = fma(wq, q, qq)
    return ee, eq, qq


@njit(error_model="numpy")
def _errors(xs: Any, ws: Any, size: int, s: Any, kind: int, a: Any, b: Any, sums: Any) -> None:
    """Leave the three sums in `sums`."""
    keep_apart()
    if kind == INTEGER:
        ee, eq, qq = _sums(xs, ws, size, s, INTEGER, a, b)
    else:
        ee, eq, qq = _sums(xs, ws, size, s, E4M3, a, b)
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
    xs: Any,
    ws: Any,
    size: int,
    cover: Any,
    a: Any,
    b: Any,
    trials: Any,
    sums: Any,
    best: Any,
) -> Any:
    """Step 1: whether this window has a better scale; then it and its error stand in `best`."""
    keep_apart()
    better = False
    for part in range(0, trials.size, WIDTH):
        s = load(trials, part) * cover
        _errors(xs, ws, size, s, INTEGER, a, b, sums)
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
    kind: int,
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
        _errors(xs, ws, size, s, kind, a, b, sums)
        i = argmin(load(sums, 0))
        if sums[i] < best:
            best = sums[i]
            chosen = lane(s, i)
            qq = sums[2 * WIDTH + i]
            fitted = chosen - sums[WIDTH + i] / qq if qq > _ZERO else chosen
    return chosen


@njit(error_model="numpy", inline="always")
def _e4m3_value(bits: Any) -> Any:
    """The float32 that 8 bits of e4m3fn stand for; NaN is not asked for."""
    a = np.uint32(bits & 0x7F)
    normal = float_of((a << 20) + np.uint32(0x3C000000))
    value = np.float32(a) * np.float32(2.0**-9) if a < 8 else normal
    return -value if bits & 0x80 else value


@njit(error_model="numpy", forceinline=True)
def _true_error(
    x: Any,
    importance: Any,
    start: int,
    column: int,
    size: int,
    weighted: Any,
    kind: int,
    low: Any,
    high: Any,
    scale: Any,
    zero: Any,
) -> Any:
    """The error of the codes that rounding gives, to the last bit of a double."""
    error = 0.0
    for k in range(size):
        value = x[start + k]
        if kind == E4M3:
            q = _e4m3_value(e4m3_bits(value / scale))
        elif kind == E2M1:
            q = _E2M1_VALUES[e2m1_code(value / scale)]
        else:
            q = np.rint(min(max(value / scale + zero, low), high)) - zero
        e = np.float64(q * scale) - np.float64(value)
        error += e * e * np.float64(importance[column + k]) if weighted > _ZERO else e * e
    return error


@njit(
    void(
        *(FLOATS, FLOATS, int64, int64, int64, float32, float32, boolean, int64),
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
    kind: int,
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
    trials: step 1, shares of the covering scale, 0 for none; empty to start from the scale at
    hand. shifts: what is added to zero points for the windows to try; without zero points 0 and 1,
    for the window and its mirror image. moves: step 2, factors on the scale. trials and moves come
    in sixteens.
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
            best[0] = scales[group] / unit
            best[1] = _INFINITE if trials.size else _ZERO
            sign = _ONE
            zero = zeros[group]
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
                s = _settle(xs, ws, count, best[0], kind, a, b, unit, dtype, moves, sums)
                s = round_scale(sign * s * unit, dtype)
                if abs(s) > _ZERO and abs(s) < _INFINITE:
                    group_of = (x, importance, first, column, count, ends[2], kind, low, high)
                    there = _true_error(*group_of, scales[group], zeros[group])
                    if _true_error(*group_of, s, zero) < there:
                        scales[group] = s
                        zeros[group] = zero
            group += 1


@njit(
    void(FLOATS, FLOATS, int64, int64, FLOATS, int64, INDICES_OUT),
    error_model="numpy",
    nogil=True,
    cache=True,
)
def search_table(
    x: Any, importance: Any, columns: int, size: int, table: Any, below: int, indices: Any
) -> None:
    """Better the index in `table`, of scales of e2m1 numbers that rise, of every group.

    The sixteen from `below` places below the one at hand are tried. The table has sixteen at least.
    """
    xs = np.empty(size, np.float32)
    ws = np.empty(size, np.float32)
    ends = np.empty(3, np.float32)
    group = 0
    for start in range(0, x.size, columns):
        for column in range(0, columns, size):
            first = start + column
            unit = read_group(x, first, importance, column, size, xs, ws, ends)
            index = indices[group]
            low = min(max(index - below, 0), table.size - WIDTH)
            s = load(table, low) * (_ONE / unit)
            errors = _sums(xs, ws, size, s, E2M1, -_E2M1_TOP, _E2M1_TOP)[0]
            new = low + argmin(errors)
            if new != index and lane(errors, new - low) < _INFINITE:
                group_of = (x, importance, first, column, size, ends[2], E2M1, _ZERO, _ZERO)
                there = _true_error(*group_of, table[index], _ZERO)
                if _true_error(*group_of, table[new], _ZERO) < there:
                    indices[group] = new
            group += 1
