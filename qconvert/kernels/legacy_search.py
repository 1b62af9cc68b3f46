"""Search for the scales (and minima) of Q4_0, Q4_1, Q5_0 and Q5_1 that suit an importance.

A weight stands as d * q + m, with q from -zero to top - zero; Q4_0 and Q5_0 have m = 0. The
weighted squared error of a block is made small in two steps:

1. Codes from trial scales; the best real d (and m) for them is a least squares problem.
2. Twice: d moved a little and rounded as float16 stores it, the best m beside it likewise,
   every weight rounded anew.

Sixteen candidates are tried at a time, one a lane.
"""

# mypy: disable-error-code="no-untyped-def"

import numpy as np
from numba import njit

from qconvert.kernels.blocks import float16, inverse, read_block
from qconvert.kernels.legacy import BLOCK
from qconvert.kernels.simd import argmin, at, fma, greatest, lane, least, load, rint, splat

_ZERO = np.float32(0)
_ONE = np.float32(1)
_TWO = np.float32(2)
_INFINITE = np.float32(np.inf)


@njit(cache=True, nogil=True, error_model="numpy")
def _sums(xs, ws, per_d, shift, bottom, top):
    """Weighted sums over the codes q that each lane's scale gives: q, q * q, q * x."""
    q1 = splat(_ZERO)
    qq = splat(_ZERO)
    qx = splat(_ZERO)
    for k in range(BLOCK):
        q = greatest(least(rint(fma(per_d, at(xs, k), shift)), top), bottom)
        wq = q * at(ws, k)
        q1 = q1 + wq
        qq = fma(wq, q, qq)
        qx = fma(wq, at(xs, k), qx)
    return q1, qq, qx


@njit(cache=True, nogil=True, error_model="numpy")
def _error(xs, ws, d, m, bottom, top):
    """The weighted squared error of each lane's d and m, every weight rounded anew."""
    per_d = inverse(d)
    shift = (splat(_ZERO) - m) * per_d
    error = splat(_ZERO)
    for k in range(BLOCK):
        x = at(xs, k)
        off = fma(d, greatest(least(rint(fma(per_d, x, shift)), top), bottom), m) - x
        error = fma(off * at(ws, k), off, error)
    return error


@njit(cache=True, nogil=True, error_model="numpy")
def _search(xs, ws, minima, bottom, top, trials, nudges, unit, base):
    """d and m of one block, near 1; `base` was taken off its weights, and belongs to m."""
    low = xs[0]
    high = xs[0]
    sum_w = _ZERO
    sum_x = _ZERO
    for k in range(BLOCK):
        low = min(low, xs[k])
        high = max(high, xs[k])
        sum_w += ws[k]
        sum_x += ws[k] * xs[k]
    width = high - low if minima else (high if high > -low else low)
    if width == _ZERO:
        return _ZERO, lane(float16(splat((low + base) * unit)), 0) / unit
    best = _INFINITE
    d_fit = _ZERO
    m_sums = (sum_x, _ZERO)
    for part in range(0, trials.size, 16):
        per_d = load(trials, part) / width
        q1, qq, qx = _sums(xs, ws, per_d, per_d * (-low) if minima else per_d * _ZERO, bottom, top)
        if minima:
            d = (qx * sum_w - q1 * sum_x) * inverse(qq * sum_w - q1 * q1)
            m = (splat(sum_x) - d * q1) / sum_w
        else:
            d = qx * inverse(qq)
            m = splat(_ZERO)
        error = d * (d * qq - qx * _TWO) + m * (m * sum_w + d * q1 * _TWO - sum_x * _TWO)
        i = argmin(error)
        if lane(error, i) < best:
            best = lane(error, i)
            d_fit = lane(d, i)
            m_sums = (sum_x, lane(q1, i))
    best = _INFINITE
    d_best = _ZERO
    m_best = _ZERO
    for part in range(0, nudges.size, 16):
        d = float16(load(nudges, part) * d_fit * unit) / unit
        m = splat(_ZERO)
        if minima:
            m = (splat(m_sums[0]) - d * m_sums[1]) / sum_w + base
            m = float16(m * unit) / unit
        error = _error(xs, ws, d, m - base, bottom, top)
        i = argmin(error)
        if lane(error, i) < best:
            best = lane(error, i)
            d_best = lane(d, i)
            m_best = lane(m, i)
        # The codes of the best so far, fitted again, are where the next round starts.
        per_d = inverse(splat(d_best))
        q1, qq, qx = _sums(xs, ws, per_d, per_d * (base - m_best), bottom, top)
        if minima:
            d = (qx * sum_w - q1 * sum_x) * inverse(qq * sum_w - q1 * q1)
        else:
            d = qx * inverse(qq)
        d_fit = lane(d, 0)
        m_sums = (sum_x, lane(q1, 0))
    return d_best, m_best


@njit(cache=True, nogil=True, error_model="numpy")
def fit(x, importance, columns, zero, bits, trials, nudges, d, low):
    """float32 [blocks * 32] and [columns] -> float32 [blocks] each: d, and m negated."""
    xs = np.empty(BLOCK, np.float32)
    ws = np.empty(BLOCK, np.float32)
    minima = zero == 0
    bottom = np.float32(-zero)
    top = np.float32((1 << bits) - 1 - zero)
    for b in range(d.size):
        start = b * BLOCK
        unit = read_block(x, start, importance, start % columns, BLOCK, xs, ws)
        base = xs[0] if minima else _ZERO
        for k in range(BLOCK):
            xs[k] -= base
        scale, minimum = _search(xs, ws, minima, bottom, top, trials, nudges, unit, base)
        d[b] = scale * unit
        low[b] = -minimum * unit
