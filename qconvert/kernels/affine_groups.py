"""Codes of groups with a scale and a bias of any sign, x' = scale * code + bias, and a search for
the pair with the least weighted squared error.

The search mirrors a group where its greatest weight is the smaller one, for a small bias is the
finer one once it is stored. Then, with y the distance from the least weight:

1. Trial windows of codes over the range of weights; codes of each give, by least squares, a real
   scale, bias and error.
2. Three times: scales near the best, rounded as they are stored, with the best bias for each,
   likewise, and all weights rounded anew; the next round starts from least squares over the codes.
3. Biases near the best one, in parts of a step.
4. What came out is kept where it is better than the pair that was there.

Sixteen candidates are tried at a time, one a lane.
"""

from typing import Any

import numpy as np
from numba import float32, int64, njit, void

from qconvert.kernels.blocks import BYTES, BYTES_OUT, FLOATS, FLOATS_OUT, inverse
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
)

_ZERO = np.float32(0.0)
_ONE = np.float32(1.0)
_TWO = np.float32(2.0)
_FLAT = np.float32(1e-5)
_INFINITE = np.float32(np.inf)


@njit(
    void(FLOATS, int64, FLOATS, FLOATS, float32, BYTES_OUT),
    error_model="numpy",
    nogil=True,
    cache=True,
)
def round_codes(x: Any, size: int, scales: Any, biases: Any, top: float, codes: Any) -> None:
    """The nearest code from 0 to `top` of every weight, ties to even; 0 where the scale is 0."""
    for group in range(scales.size):
        scale = scales[group]
        bias = biases[group]
        for k in range(group * size, (group + 1) * size):
            value = np.rint((x[k] - bias) / scale) if scale != _ZERO else _ZERO
            codes[k] = np.uint8(min(max(value, _ZERO), top))


@njit(void(BYTES, int64, FLOATS, FLOATS, FLOATS_OUT), error_model="numpy", nogil=True, cache=True)
def dequantize(codes: Any, size: int, scales: Any, biases: Any, x: Any) -> None:
    """The weights of codes, float32."""
    for group in range(scales.size):
        for k in range(group * size, (group + 1) * size):
            x[k] = scales[group] * np.float32(codes[k]) + biases[group]


@njit(error_model="numpy")
def _read(
    x: Any, start: int, importance: Any, column: int, size: int, ys: Any, ws: Any, ends: Any
) -> Any:
    """Leave the distances from the group's least weight in ys, mirrored where its greatest is
    nearer to zero, and importances in ws.

    Returns the power of two that was divided out, that least weight, the sign of the mirror, and
    the greatest distance.
    """
    keep_apart()
    unit = read_group(x, start, importance, column, size, ys, ws, ends)
    low = ys[0]
    high = ys[0]
    for k in range(size):
        low = min(low, ys[k])
        high = max(high, ys[k])
    sign = -_ONE if abs(low) > abs(high) else _ONE
    base = -high if sign < _ZERO else low
    for k in range(size):
        ys[k] = sign * ys[k] - base
    return unit, base, sign, high - low


@njit(error_model="numpy", forceinline=True)
def _sums(ys: Any, ws: Any, size: int, per_s: Any, shift: Any, top: Any) -> Any:
    """Weighted sums over the codes q that each lane gives: q, q * q, q * y."""
    q1 = splat(_ZERO)
    qq = splat(_ZERO)
    qy = splat(_ZERO)
    for k in range(size):
        y = at(ys, k)
        q = greatest(least(rint(fma(per_s, y, shift)), top), _ZERO)
        wq = q * at(ws, k)
        q1 = q1 + wq
        qq = fma(wq, q, qq)
        qy = fma(wq, y, qy)
    return q1, qq, qy


@njit(error_model="numpy")
def _try_windows(
    ys: Any, ws: Any, size: int, width: Any, top: Any, trials: Any, sums: Any, best: Any
) -> None:
    """Step 1: leave scale and bias, from the least weight, in `best`."""
    keep_apart()
    least_error = _INFINITE
    for part in range(0, trials.size, 2 * WIDTH):
        per_s = load(trials, part) / width
        q1, qq, qy = _sums(ys, ws, size, per_s, load(trials, part + WIDTH), top)
        det = qq * sums[0] - q1 * q1
        flat = greatest(qq * sums[0] * _FLAT, splat(np.float32(1e-30)))
        # Where all codes are one, the slope is none.
        per_det = inverse(greatest(det, flat))
        s = (qy * sums[0] - q1 * sums[1]) * per_det
        r = (sums[1] - s * q1) * (_ONE / sums[0])
        error = s * (s * qq - _TWO * qy) + r * (r * sums[0] + _TWO * (s * q1 - sums[1]))
        i = argmin(error)
        if lane(error, i) < least_error:
            least_error = lane(error, i)
            best[0] = lane(s, i)
            best[1] = lane(r, i)


@njit(error_model="numpy", forceinline=True)
def _error(ys: Any, ws: Any, size: int, s: Any, r: Any, top: Any) -> Any:
    """Each lane's weighted squared error, every weight rounded anew."""
    per_s = inverse(s)
    shift = (splat(_ZERO) - r) * per_s
    error = splat(_ZERO)
    for k in range(size):
        y = at(ys, k)
        q = greatest(least(rint(fma(per_s, y, shift)), top), _ZERO)
        e = fma(s, q, r) - y
        error = fma(e * at(ws, k), e, error)
    return error


@njit(error_model="numpy")
def _settle(
    ys: Any,
    ws: Any,
    size: int,
    base: Any,
    top: Any,
    unit: Any,
    dtype: int,
    moves: Any,
    nudges: Any,
    sums: Any,
    best: Any,
) -> None:
    """Steps 2 and 3: leave the best pair that can be stored in `best`, the bias from zero."""
    keep_apart()
    fitted = best[0]
    shift = best[1]
    least_error = _INFINITE
    for part in range(0, moves.size, WIDTH):
        per_s = inverse(splat(fitted))
        q1, qq, qy = _sums(ys, ws, size, per_s, per_s * (_ZERO - shift), top)
        if part > 0:
            det = lane(qq, 0) * sums[0] - lane(q1, 0) * lane(q1, 0)
            if det > _FLAT * lane(qq, 0) * sums[0]:
                fitted = (lane(qy, 0) * sums[0] - lane(q1, 0) * sums[1]) / det
        s = round_scales(load(moves, part) * fitted, unit, dtype)
        m = (sums[1] - s * q1) * (_ONE / sums[0]) + base
        m = round_scales(m, unit, dtype)
        error = _error(ys, ws, size, s, m - base, top)
        i = argmin(error)
        if lane(error, i) < least_error:
            least_error = lane(error, i)
            best[0] = lane(s, i)
            best[1] = lane(m, i)
        fitted = best[0]
        shift = best[1] - base
    s = splat(best[0])
    m = round_scales(fma(load(nudges, 0), s, splat(best[1])), unit, dtype)
    error = _error(ys, ws, size, s, m - base, top)
    i = argmin(error)
    if lane(error, i) < least_error:
        best[1] = lane(m, i)


@njit(error_model="numpy")
def _true_error(
    x: Any,
    importance: Any,
    start: int,
    column: int,
    size: int,
    weighted: Any,
    top: Any,
    scale: Any,
    bias: Any,
) -> Any:
    """The error of the codes that rounding gives, to the last bit of a double."""
    keep_apart()
    error = 0.0
    for k in range(size):
        value = x[start + k]
        q = np.rint((value - bias) / scale) if scale != _ZERO else _ZERO
        q = min(max(q, _ZERO), top)
        e = np.float64(scale * q + bias) - np.float64(value)
        error += e * e * np.float64(importance[column + k]) if weighted > _ZERO else e * e
    return error


@njit(
    void(
        *(FLOATS, FLOATS, int64, int64, float32, int64),
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
    top: float,
    dtype: int,
    trials: Any,
    moves: Any,
    nudges: Any,
    scales: Any,
    biases: Any,
) -> None:
    """Better the scale and bias of every group, float32.

    top: the highest code; dtype: F32, F16 or BF16 of scales and biases.
    trials: step 1, sixteen times how many steps the range of weights has, then sixteen times the
    code of the least weight. moves: step 2, factors on the scale. nudges: step 3, steps.
    """
    ys = np.empty(size, np.float32)
    ws = np.empty(size, np.float32)
    ends = np.empty(3, np.float32)
    sums = np.empty(2, np.float32)
    best = np.empty(2, np.float32)
    group = 0
    for start in range(0, x.size, columns):
        for column in range(0, columns, size):
            first = start + column
            unit, base, sign, width = _read(x, first, importance, column, size, ys, ws, ends)
            if width > _ZERO and width < _INFINITE:
                sums[0] = _ZERO
                sums[1] = _ZERO
                for k in range(size):
                    sums[0] += ws[k]
                    sums[1] += ws[k] * ys[k]
                _try_windows(ys, ws, size, width, top, trials, sums, best)
                _settle(ys, ws, size, base, top, unit, dtype, moves, nudges, sums, best)
                s = round_scale(sign * best[0] * unit, dtype)
                m = round_scale(sign * best[1] * unit, dtype)
                if abs(s) > _ZERO and abs(s) < _INFINITE and abs(m) < _INFINITE:
                    group_of = (x, importance, first, column, size, ends[2], top)
                    there = _true_error(*group_of, scales[group], biases[group])
                    if _true_error(*group_of, s, m) < there:
                        scales[group] = s
                        biases[group] = m
            group += 1
