"""The scale of scales of formats without minima: x' = d * scale * code.

Shared by the searches of Q3_K, Q6_K and IQ4_XS.
"""

from typing import Any, NamedTuple

import numpy as np
from numba import njit

from qconvert.kernels.blocks import float16, inverse
from qconvert.kernels.simd import (
    WIDTH,
    argmin,
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
    where_less,
)

_ZERO = np.float32(0.0)
_ONE = np.float32(1.0)
_INFINITE = np.float32(np.inf)


class Sums(NamedTuple):
    """Of each sub-block, [16]: its scale, and sums over its codes q, weighted by importance.

    scale: first the real scale that is best for the codes, then the integer that stands for it.
    qq: q squared; error_q: (x' - x) * q.
    """

    scale: Any
    qq: Any
    error_q: Any


@njit(error_model="numpy")
def extreme(xs: Any, start: int, size: int) -> Any:
    """The weight that is largest in magnitude, with its sign; the positive one of two."""
    lows = load(xs, start)
    highs = lows
    for k in range(start + WIDTH, start + size, WIDTH):
        lows = least(lows, load(xs, k))
        highs = greatest(highs, load(xs, k))
    low = lowest(lows)
    high = highest(highs)
    return low if -low > high else high


@njit(error_model="numpy")
def choose_unit(sums: Any, count: int, limit: Any, unit: Any, grid: Any) -> Any:
    """The d whose multiples suit all scales best: the largest scale times one of `grid`, or the
    lowest integer's share of any one scale, for the case that the larger ones matter little.

    Turns the scales in `sums` into integers from -limit to limit - 1. `unit` is the power of two
    that was divided out of the block, which float16 sees again.
    """
    keep_apart()
    top = extreme(sums.scale, 0, WIDTH)
    best = splat(_INFINITE)
    best_d = splat(_ZERO)
    for part in range(0, grid.size + WIDTH, WIDTH):
        d = load(grid, part) * top if part < grid.size else load(sums.scale, 0) / -limit
        d = float16(d * unit) / unit
        per_d = inverse(d)
        error = splat(_ZERO)
        for j in range(count):
            scale = greatest(least(rint(per_d * sums.scale[j]), limit - _ONE), -limit)
            ds = d * scale - sums.scale[j]
            error = fma(ds * ds, sums.qq[j], error)
        best_d = where_less(error, best, d, best_d)
        best = least(error, best)
    chosen = lane(best_d, argmin(best))
    scales = rint(inverse(splat(chosen)) * load(sums.scale, 0))
    store(sums.scale, 0, greatest(least(scales, limit - _ONE), -limit))
    return chosen


@njit(error_model="numpy")
def nudged_units(d: Any, curve: Any, slope: Any, unit: Any, nudges: Any) -> Any:
    """Sixteen d: the one at hand, and the best one for the codes at hand times `nudges`.

    curve, slope: the error changes by step * (step * curve + 2 * slope) where d changes by step.
    """
    fitted = d - slope / curve if curve > _ZERO else d
    # A nudge of 0 stands for d as it is.
    factor = load(nudges, 0)
    return where_less(_ZERO, factor, float16(factor * (fitted * unit)) / unit, d)
