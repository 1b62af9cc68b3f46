"""Search for the scales and minima of Q2_K, Q4_K and Q5_K.

A super-block of 256 weights has sub-blocks of 16 or 32. A weight stands as

    x' = d * scale * code - dmin * min

with float16 d and dmin for the super-block, small integers scale and min for each sub-block and
a code from 0 to `top`. The weighted squared error is made small in four steps:

1. For each sub-block, codes from 32 trial scales; the best pair of real scale and minimum for
   them is a 2x2 least squares problem.
2. A grid of (d, dmin) pairs: each sub-block takes its best integers for the codes of step 1.
3. For the best pair of these, 16 neighbours of each sub-block's integers, now with every
   weight rounded anew.
4. d and dmin fitted again to the codes that came out, and 16 neighbouring pairs of float16.

Sixteen candidates are tried at a time, one a lane. Steps 1 to 3 follow the quantizers of ggml in
outline; they search more and round sooner.
"""

from typing import Any, NamedTuple

import numpy as np
from numba import float32, int64, njit, void

from qconvert.kernels.blocks import BYTES_OUT, FLOATS, FLOATS_OUT, float16, inverse, read_block
from qconvert.kernels.simd import (
    WIDTH,
    argmin,
    at,
    fma,
    greatest,
    highest,
    keep_apart,
    lane,
    least,
    load,
    lowest,
    rint,
    splat,
    store,
    total,
    where_less,
)

BLOCK = 256
_ZERO = np.float32(0.0)
_ONE = np.float32(1.0)
_TWO = np.float32(2.0)
_FLAT = np.float32(1e-5)
_INFINITE = np.float32(np.inf)


class Sums(NamedTuple):
    """Of each sub-block, [16]: its integers, and sums over its weights x with codes q.

    error is x' - x. Sums are weighted by importance. With them the error that other scales would
    give for the same codes is known without a further look at the weights.
    """

    scale: Any
    low: Any
    w: Any
    q: Any
    qq: Any
    error: Any
    error_q: Any


@njit(error_model="numpy")
def _try_scales(xs: Any, ws: Any, ys: Any, size: int, top: Any, trials: Any, sums: Any) -> None:
    """Step 1: leave real scales and minima, and the sums of their codes, in `sums`."""
    keep_apart()
    for j in range(BLOCK // size):
        base = j * size
        lows = splat(_ZERO)
        highs = load(xs, base)
        for k in range(base, base + size, WIDTH):
            lows = least(lows, load(xs, k))
            highs = greatest(highs, load(xs, k))
        low = lowest(lows)
        width = highest(highs) - low
        if not width > _ZERO:
            width = _ONE
        w1 = splat(_ZERO)
        y1 = splat(_ZERO)
        for k in range(0, size, WIDTH):
            w = load(ws, base + k)
            y = load(xs, base + k) - low
            store(ys, k, y)
            w1 = w1 + w
            y1 = fma(y, w, y1)
        sum_w = total(w1)
        sum_y = total(y1)
        best = _INFINITE
        for part in range(0, trials.size, 3 * WIDTH):
            scale = (load(trials, part) + top) / width
            phase = load(trials, part + WIDTH)
            q1 = splat(_ZERO)
            qq = splat(_ZERO)
            qy = splat(_ZERO)
            for k in range(size):
                y = at(ys, k)
                q = least(rint(fma(scale, y, phase)), top)
                wq = q * at(ws, base + k)
                q1 = q1 + wq
                qq = fma(wq, q, qq)
                qy = fma(wq, y, qy)
            # The line y = s q + r through the points, r so that the minimum stays at most 0; r = 0
            # where the points do not tell slope from shift.
            det = qq * sum_w - q1 * q1
            per_det = where_less(qq * sum_w * _FLAT, det, _ONE / det, _ZERO)
            r = least((qq * sum_y - q1 * qy) * per_det, -low)
            s = greatest((qy - r * q1) * inverse(qq), _ZERO)
            error = r * (r * sum_w - _TWO * sum_y) + s * (s * qq + _TWO * (r * q1 - qy))
            error = error * load(trials, part + 2 * WIDTH)
            i = argmin(error)
            if lane(error, i) < best:
                best = lane(error, i)
                sums.scale[j] = lane(s, i)
                sums.low[j] = -low - lane(r, i)
                sums.q[j] = lane(q1, i)
                sums.qq[j] = lane(qq, i)
                sums.error[j] = lane(s * q1 + r * sum_w - sum_y, i)
                sums.error_q[j] = lane(s * qq + r * q1 - qy, i)
        sums.w[j] = sum_w


@njit(error_model="numpy")
def _choose_units(sums: Any, count: int, limit: Any, unit: Any, grid: Any, units: Any) -> None:
    """Step 2: leave (d, dmin) in `units` and each sub-block's integers in `sums`."""
    keep_apart()
    d_top = highest(load(sums.scale, 0)) / limit
    dmin_top = highest(load(sums.low, 0)) / limit
    best = splat(_INFINITE)
    best_d = splat(_ZERO)
    best_dmin = best_d
    for part in range(0, grid.size + 2 * WIDTH, 2 * WIDTH):
        if part < grid.size:
            d = load(grid, part) * d_top
            dmin = load(grid, part + WIDTH) * dmin_top
        else:
            # What suits any one sub-block, for the case that the larger ones matter little.
            d = load(sums.scale, 0) / limit
            dmin = load(sums.low, 0) / limit
        d = float16(d * unit) / unit
        dmin = float16(dmin * unit) / unit
        per_d = inverse(d)
        per_dmin = inverse(dmin)
        error = splat(_ZERO)
        for j in range(count):
            ds = d * least(rint(per_d * sums.scale[j]), limit) - sums.scale[j]
            m = (ds * sums.q[j] + sums.error[j]) * (_ONE / sums.w[j]) + sums.low[j]
            dm = dmin * greatest(least(rint(m * per_dmin), limit), _ZERO) - sums.low[j]
            error = fma(dm, dm * sums.w[j] - _TWO * sums.error[j], error)
            error = fma(ds, ds * sums.qq[j] + _TWO * (sums.error_q[j] - dm * sums.q[j]), error)
        best_d = where_less(error, best, d, best_d)
        best_dmin = where_less(error, best, dmin, best_dmin)
        best = least(error, best)
    i = argmin(best)
    units[0] = lane(best_d, i)
    units[1] = lane(best_dmin, i)
    # The same for all sub-blocks at once, one a lane.
    d = splat(units[0])
    scale = least(rint(inverse(d) * load(sums.scale, 0)), limit)
    ds = d * scale - load(sums.scale, 0)
    m = (ds * load(sums.q, 0) + load(sums.error, 0)) / load(sums.w, 0) + load(sums.low, 0)
    store(sums.low, 0, greatest(least(rint(m * inverse(splat(units[1]))), limit), _ZERO))
    store(sums.scale, 0, scale)


@njit(error_model="numpy")
def _try_integers(
    xs: Any,
    ws: Any,
    size: int,
    top: Any,
    limit: Any,
    moves: Any,
    units: Any,
    sums: Any,
) -> None:
    """Step 3: of each sub-block's integers and their neighbours, leave the best in `sums`."""
    keep_apart()
    for j in range(BLOCK // size):
        base = j * size
        best = _INFINITE
        scale0 = sums.scale[j]
        low0 = sums.low[j]
        step = scale0 * units[0] / units[1] if units[1] > _ZERO else _ZERO
        for part in range(0, moves.size, 3 * WIDTH):
            scale = greatest(least(load(moves, part) + scale0, limit), _ZERO)
            low = fma(load(moves, part + 2 * WIDTH), step, load(moves, part + WIDTH))
            low = greatest(least(rint(low) + low0, limit), _ZERO)
            s = scale * units[0]
            m = low * units[1]
            per_s = inverse(s)
            shift = m * per_s
            minus = _ZERO - m
            ee = splat(_ZERO)
            for k in range(base, base + size):
                x = at(xs, k)
                q = greatest(least(rint(fma(per_s, x, shift)), top), _ZERO)
                e = fma(s, q, minus) - x
                ee = fma(e * at(ws, k), e, ee)
            i = argmin(ee)
            if lane(ee, i) < best:
                best = lane(ee, i)
                sums.scale[j] = lane(scale, i)
                sums.low[j] = lane(low, i)


@njit(error_model="numpy")
def _refit_units(
    xs: Any,
    ws: Any,
    size: int,
    top: Any,
    unit: Any,
    nudges: Any,
    units: Any,
    sums: Any,
) -> None:
    """Step 4: the pair of d and dmin among sixteen that suits the codes at hand best."""
    keep_apart()
    a = splat(_ZERO)
    b = splat(_ZERO)
    c = splat(_ZERO)
    gd = splat(_ZERO)
    gm = splat(_ZERO)
    for j in range(BLOCK // size):
        scale = splat(sums.scale[j])
        low = splat(sums.low[j])
        m = low * units[1]
        per_s = inverse(scale * units[0])
        for k in range(j * size, (j + 1) * size, WIDTH):
            x = load(xs, k)
            w = load(ws, k)
            q = greatest(least(rint(fma(per_s, x, m * per_s)), top), _ZERO)
            p = q * scale
            we = (fma(p, units[0], _ZERO - m) - x) * w
            a = fma(p * w, p, a)
            b = fma(p * w, low, b)
            c = fma(low * w, low, c)
            gd = fma(we, p, gd)
            gm = gm - we * low
    _nudge(total(a), total(b), total(c), total(gd), total(gm), unit, nudges, units)


@njit(error_model="numpy")
def _nudge(a: Any, b: Any, c: Any, gd: Any, gm: Any, unit: Any, nudges: Any, units: Any) -> None:
    """Change d by s and dmin by t: for the same codes the error changes by
    s (s a - 2 t b + 2 gd) + t (t c + 2 gm), of which the least is looked for among float16."""
    det = a * c - b * b
    d_fit = units[0]
    dmin_fit = units[1]
    if det > _FLAT * a * c:
        d_fit -= (gd * c + gm * b) / det
        dmin_fit -= (gm * a + gd * b) / det
    elif a > _ZERO:
        d_fit -= gd / a
    elif c > _ZERO:
        dmin_fit -= gm / c
    # Lanes whose third nudge is 1 keep what is there.
    keep = load(nudges, 2 * WIDTH)
    d = float16(load(nudges, 0) * (d_fit * unit)) / unit
    dmin = float16(load(nudges, WIDTH) * (dmin_fit * unit)) / unit
    d = greatest(where_less(_ZERO, keep, units[0], d), _ZERO)
    dmin = greatest(where_less(_ZERO, keep, units[1], dmin), _ZERO)
    s = d - units[0]
    t = dmin - units[1]
    i = argmin(s * (s * a - _TWO * (t * b - gd)) + t * (t * c + _TWO * gm))
    units[0] = lane(d, i)
    units[1] = lane(dmin, i)


@njit(
    void(
        *(FLOATS, FLOATS, int64, int64, float32, float32, FLOATS, FLOATS, FLOATS, FLOATS),
        *(FLOATS_OUT, FLOATS_OUT, BYTES_OUT, BYTES_OUT),
    ),
    error_model="numpy",
    nogil=True,
    cache=True,
)
def fit_affine(
    x: Any,
    importance: Any,
    columns: int,
    size: int,
    top: float,
    limit: float,
    trials: Any,
    grid: Any,
    moves: Any,
    nudges: Any,
    d: Any,
    dmin: Any,
    scales: Any,
    mins: Any,
) -> None:
    """Fit every super-block of x (float32, rows of `columns` end to end).

    size: weights of a sub-block; top: the highest code; limit: the highest scale and min.
    trials, grid, moves, nudges: the candidates of steps 1 to 4.
    Fills d and dmin (float32, one a super-block), scales and mins (uint8, one a sub-block).
    """
    xs = np.empty(BLOCK, np.float32)
    ws = np.empty(BLOCK, np.float32)
    ys = np.empty(32, np.float32)
    units = np.empty(2, np.float32)
    count = BLOCK // size
    # Lanes without a sub-block keep zeros, but for a weight to divide by.
    table = np.zeros((7, WIDTH), np.float32)
    table[2] = _ONE
    sums = Sums(table[0], table[1], table[2], table[3], table[4], table[5], table[6])
    for block in range(x.size // BLOCK):
        start = block * BLOCK
        unit = read_block(x, start, importance, start % columns, BLOCK, xs, ws)
        _try_scales(xs, ws, ys, size, top, trials, sums)
        _choose_units(sums, count, limit, unit, grid, units)
        _try_integers(xs, ws, size, top, limit, moves, units, sums)
        _refit_units(xs, ws, size, top, unit, nudges, units, sums)
        d[block] = units[0] * unit
        dmin[block] = units[1] * unit
        for j in range(count):
            scales[block * count + j] = np.uint8(sums.scale[j])
            mins[block * count + j] = np.uint8(sums.low[j])
