"""Search for the scales of Q3_K and Q6_K.

A super-block of 256 weights has 16 sub-blocks of 16. A weight stands as

    x' = d * scale * code,  code from -reach to reach - 1

with a float16 d for the super-block and a small signed integer for each sub-block. The weighted
squared error is made small in four steps:

1. For each sub-block, codes from trial scales of both signs; least squares gives a real scale.
2. A grid of d: each sub-block takes the nearest integer.
3. For the best d, 16 neighbours of each sub-block's integer, now with every weight rounded anew.
4. d fitted again to the codes that came out, and 16 neighbouring float16.

The sixteen sub-blocks lie side by side, one a lane: `xt` and `wt` hold their first weights and
importances, then their second ones, and so on, and `nt` the weights negated, which saves a
subtraction for each. Only step 2 has its candidates in the lanes.
"""

from typing import Any

import numpy as np
from numba import float32, int64, njit, void

from qconvert.kernels.blocks import (
    FLOATS,
    FLOATS_OUT,
    SIGNED_OUT,
    inverse,
    read_block,
)
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
    total,
    transpose,
    where_less,
)
from qconvert.kernels.units import Sums, choose_unit, nudged_units

BLOCK = 256
SIZE = 16
COUNT = BLOCK // SIZE
_ZERO = np.float32(0.0)
_ONE = np.float32(1.0)
_TWO = np.float32(2.0)
_INFINITE = np.float32(np.inf)


@njit(error_model="numpy")
def _try_scales(xt: Any, wt: Any, reach: Any, trials: Any, sums: Any) -> None:
    """Step 1: leave real scales and the sums of their codes in `sums`."""
    keep_apart()
    lows = load(xt, 0)
    highs = lows
    for k in range(WIDTH, BLOCK, WIDTH):
        lows = least(lows, load(xt, k))
        highs = greatest(highs, load(xt, k))
    # The weight that is largest in magnitude, the positive one of two.
    per_peak = inverse(where_less(highs, _ZERO - lows, lows, highs))
    best = splat(_INFINITE)
    best_s = splat(_ZERO)
    best_qq = best_s
    for part in range(0, trials.size, 2 * WIDTH):
        for trial in range(part, part + WIDTH):
            per_s = at(trials, trial) * per_peak
            qq = splat(_ZERO)
            qx = splat(_ZERO)
            for k in range(0, BLOCK, WIDTH):
                x = load(xt, k)
                q = greatest(least(rint(per_s * x), reach - _ONE), -reach)
                wq = q * load(wt, k)
                qq = fma(wq, q, qq)
                qx = fma(wq, x, qx)
            s = qx * inverse(qq)
            error = (_ZERO - s * qx) * at(trials, trial + WIDTH)
            best_s = where_less(error, best, s, best_s)
            best_qq = where_less(error, best, qq, best_qq)
            best = least(error, best)
    store(sums.scale, 0, best_s)
    store(sums.qq, 0, best_qq)


@njit(error_model="numpy")
def _try_integers(nt: Any, wt: Any, reach: Any, limit: Any, moves: Any, d: Any, sums: Any) -> None:
    """Step 3: of each sub-block's integer and its neighbours, leave the best in `sums`."""
    keep_apart()
    middle = load(sums.scale, 0)
    best = splat(_INFINITE)
    best_scale = middle
    for move in range(WIDTH):
        scale = greatest(least(at(moves, move) + middle, limit - _ONE), -limit)
        s = scale * d
        per_s = _ZERO - inverse(s)
        ee = splat(_ZERO)
        for k in range(0, BLOCK, WIDTH):
            n = load(nt, k)
            q = greatest(least(rint(per_s * n), reach - _ONE), -reach)
            e = fma(s, q, n)
            ee = fma(e * load(wt, k), e, ee)
        best_scale = where_less(ee, best, scale, best_scale)
        best = least(ee, best)
    store(sums.scale, 0, best_scale)


@njit(error_model="numpy")
def _refit_unit(nt: Any, wt: Any, reach: Any, d: Any, unit: Any, nudges: Any, sums: Any) -> Any:
    """Step 4: the d among sixteen that suits the codes at hand best."""
    keep_apart()
    scale = load(sums.scale, 0)
    per_s = _ZERO - inverse(scale * d)
    curve = splat(_ZERO)
    slope = splat(_ZERO)
    for k in range(0, BLOCK, WIDTH):
        n = load(nt, k)
        p = scale * greatest(least(rint(per_s * n), reach - _ONE), -reach)
        wp = p * load(wt, k)
        curve = fma(wp, p, curve)
        slope = fma(wp, fma(p, d, n), slope)
    a = total(curve)
    g = total(slope)
    trial = nudged_units(d, a, g, unit, nudges)
    step = trial - d
    return lane(trial, argmin(step * (step * a + _TWO * g)))


@njit(
    void(
        *(FLOATS, FLOATS, int64, float32, float32, FLOATS, FLOATS, FLOATS, FLOATS),
        *(FLOATS_OUT, SIGNED_OUT),
    ),
    error_model="numpy",
    nogil=True,
    cache=True,
)
def fit_symmetric(
    x: Any,
    importance: Any,
    columns: int,
    reach: float,
    limit: float,
    trials: Any,
    grid: Any,
    moves: Any,
    nudges: Any,
    ds: Any,
    scales: Any,
) -> None:
    """Fit every super-block of x (float32, rows of `columns` end to end).

    reach: codes go from -reach to reach - 1; limit: scales from -limit to limit - 1.
    trials, grid, moves, nudges: the candidates of steps 1 to 4.
    Fills ds (float32, one a super-block) and scales (int8, one a sub-block).
    """
    xs = np.empty(BLOCK, np.float32)
    ws = np.empty(BLOCK, np.float32)
    xt = np.empty(BLOCK, np.float32)
    wt = np.empty(BLOCK, np.float32)
    nt = np.empty(BLOCK, np.float32)
    table = np.zeros((3, WIDTH), np.float32)
    sums = Sums(table[0], table[1], table[2])
    for block in range(x.size // BLOCK):
        start = block * BLOCK
        unit = read_block(x, start, importance, start % columns, BLOCK, xs, ws)
        transpose(xs, xt)
        transpose(ws, wt)
        for k in range(0, BLOCK, WIDTH):
            store(nt, k, _ZERO - load(xt, k))
        _try_scales(xt, wt, reach, trials, sums)
        d = choose_unit(sums, COUNT, limit, unit, grid)
        _try_integers(nt, wt, reach, limit, moves, d, sums)
        d = _refit_unit(nt, wt, reach, d, unit, nudges, sums)
        ds[block] = d * unit
        for j in range(COUNT):
            scales[block * COUNT + j] = np.int8(sums.scale[j])
