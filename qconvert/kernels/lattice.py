"""Joint search for scales and grid points of the IQ1, IQ2 and IQ3 formats.

    x' = d * (2 l + 1) * sign * point     a super-block of 256 has one d, a sub-block one l

A group of 4 or 8 weights has a point of a grid: not every combination of levels is in it, so that
weights cannot be rounded one by one. For each group, the weights are rounded freely at first, and
a table gives the points that are near to this combination of levels. Of each of them two sums are
kept, weighted by importance:

    q = sum w point^2,  c = -2 sum w point x,  so that the error at scale s is s (s q + c) + const

With these, sixteen scales are tried at once, each with the best point for it:

1. For each sub-block, sixteen trial scales with weights rounded freely; least squares.
2. Sixteen scales near the best one, now with points of the grid.
3. A grid of d: each sub-block takes the nearest odd multiple.
4. All l of each sub-block for this d, again with points of the grid, and d fitted to them.
5. Lists of points made anew at these scales; step 4 again.

Where seven bits hold eight signs, their product is positive; if it is not, the weight whose sign
costs least to flip is flipped.
"""

from typing import Any

import numpy as np
from numba import int64, njit, types, void

from qconvert.kernels.blocks import (
    BYTES_OUT,
    FLOATS,
    FLOATS_OUT,
    HALVES,
    float16,
    inverse,
    read_block,
)
from qconvert.kernels.lattice_points import (
    BLOCK,
    CURVE,
    FLIPPED,
    FREE,
    HALF,
    NEGATIVE,
    PARTS,
    POINTS,
    SCALE,
    SLOPE,
    SQUARES,
    A,
    Grid,
    Room,
    errors,
    list_points,
    pick,
    strip_signs,
)
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
    rint,
    splat,
    total,
    where_less,
)

INTEGERS_OUT = types.Array(types.int32, 1, "C")
HALVES_OUT = types.Array(types.uint16, 1, "C")

# Places in the candidates.
STARTS = WIDTH
NEARBY = STARTS + WIDTH
ODDS = NEARBY + WIDTH
SHARES = ODDS + WIDTH

_ZERO = np.float32(0.0)
_HALF = np.float32(0.5)
_ONE = np.float32(1.0)
_INFINITE = np.float32(np.inf)
_NEGLIGIBLE = np.float32(1e-30)
_ALIKE = np.float32(1.35 / BLOCK)
_MANY = np.float32(BLOCK // 16)


@njit(error_model="numpy")
def _try_scales(grid: Any, room: Any, search: Any) -> None:
    """Step 1: leave real scales of all sub-blocks, and the sums of their squared levels."""
    keep_apart()
    top = np.float32(grid.levels - 1)
    low = grid.low + grid.shift * _HALF
    per_step = _ONE / grid.step
    shift = low * per_step
    for j in range(BLOCK // grid.size):
        base = j * grid.size
        fourth = splat(_ZERO)
        second = splat(_ZERO)
        for k in range(base, base + grid.size, WIDTH):
            x = load(room.real, A + k)
            xx = x * x
            wxx = xx * load(room.w, k)
            second = second + wxx
            fourth = fma(wxx, xx, fourth)
        energy = total(second)
        # How large the weights are that matter.
        peak = np.sqrt(total(fourth) / energy) if energy > _NEGLIGIBLE else _ZERO
        per_s = inverse(load(search, 0) * peak) * per_step
        qq = splat(_ZERO)
        qx = splat(_ZERO)
        for k in range(base, base + grid.size):
            x = at(room.real, A + k)
            digit = greatest(least(rint(per_s * x - shift), top), _ZERO)
            value = fma(digit, grid.step, splat(low))
            wv = value * at(room.w, k)
            qq = fma(wv, value, qq)
            qx = fma(wv, x, qx)
        s = qx * inverse(qq)
        i = argmin(_ZERO - s * qx)
        room.real[FREE + j] = lane(s, i) if peak > _ZERO else _ZERO
        room.real[SQUARES + j] = lane(qq, i)


@njit(error_model="numpy")
def _is_uneven(room: Any) -> Any:
    """Whether the magnitudes of the weights are far from normally distributed: much alike, or
    many of them zero."""
    keep_apart()
    zeros = splat(_ZERO)
    second = splat(_ZERO)
    fourth = splat(_ZERO)
    for k in range(0, BLOCK, WIDTH):
        x = load(room.real, k)
        xx = x * x
        second = second + xx
        fourth = fma(xx, xx, fourth)
        zeros = zeros + where_less(xx, _NEGLIGIBLE, _ONE, _ZERO)
    square = total(second)
    return total(fourth) < _ALIKE * square * square or total(zeros) > _MANY


@njit(error_model="numpy")
def _choose_unit(grid: Any, room: Any, unit: Any, search: Any) -> Any:
    """Step 3: the d whose odd multiples suit all scales best: the largest scale times a share, or
    what makes any scale the least or the largest multiple.

    `unit` is the power of two that was divided out of the block, which float16 sees again.
    """
    keep_apart()
    most = np.float32(grid.reach - 1)
    scales = load(room.real, SCALE)
    peak = highest(scales)
    best = splat(_INFINITE)
    best_d = splat(_ZERO)
    for part in range(SHARES, search.size + 2 * WIDTH, WIDTH):
        d = scales
        if part < search.size:
            d = load(search, part) * peak
        elif part == search.size:
            d = d / (most + most + _ONE)
        d = float16(d * unit) / unit
        per_d = inverse(d)
        error = splat(_ZERO)
        for j in range(BLOCK // grid.size):
            s = room.real[SCALE + j]
            place = greatest(least(rint((per_d * s - _ONE) * _HALF), most), _ZERO)
            off = (place + place + _ONE) * d - s
            error = fma(off * off, room.real[SQUARES + j], error)
        best_d = where_less(error, best, d, best_d)
        best = least(error, best)
    return lane(best_d, argmin(best))


@njit(error_model="numpy")
def _fit_unit(grid: Any, room: Any, d: Any, unit: Any, search: Any, take: int) -> Any:
    """Step 4: the best l of each sub-block and its points. Returns the d fitted to them."""
    keep_apart()
    odds = least(load(search, ODDS), np.float32(2 * grid.reach - 1))
    room.real[CURVE] = _ZERO
    room.real[SLOPE] = _ZERO
    for j in range(BLOCK // grid.size):
        odd = lane(odds, argmin(errors(grid, room, j, odds * d, take)))
        room.real[SCALE + j] = odd
        pick(grid, room, j, odd * d, odd, take)
    curve = room.real[CURVE]
    fitted = room.real[SLOPE] / (curve * np.float32(-2)) if curve > _NEGLIGIBLE else _ZERO
    return lane(float16(splat(fitted * unit)) / unit, 0)


@njit(error_model="numpy")
def _fit_from(grid: Any, room: Any, factor: Any, unit: Any, search: Any) -> Any:
    """Steps 2 to 4, from the scales of step 1 times a factor."""
    keep_apart()
    for j in range(BLOCK // grid.size):
        s = room.real[FREE + j] * factor
        list_points(grid, room, j, s, grid.few)
        scales = load(search, NEARBY) * s
        room.real[SCALE + j] = lane(scales, argmin(errors(grid, room, j, scales, grid.few)))
    d = _choose_unit(grid, room, unit, search)
    return _fit_unit(grid, room, d, unit, search, grid.few)


@njit(error_model="numpy")
def _fit_block(grid: Any, room: Any, unit: Any, search: Any) -> Any:
    """All steps. Returns d; the rest is left in `room`."""
    strip_signs(grid, room)
    _try_scales(grid, room, search)
    factor = _ONE
    best = _INFINITE
    # Of weights much alike, quite different scales may be nearly as good.
    starts = WIDTH if _is_uneven(room) else 0
    for start in range(starts + 1):
        if start < starts:
            d = _fit_from(grid, room, search[STARTS + start], unit, search)
            error = d * (d * room.real[CURVE] + room.real[SLOPE])
            if error < best:
                best = error
                factor = search[STARTS + start]
        else:
            d = _fit_from(grid, room, factor, unit, search)
    for j in range(BLOCK // grid.size):
        list_points(grid, room, j, room.real[SCALE + j] * d, grid.listed)
    return _fit_unit(grid, room, d, unit, search, grid.listed)


@njit(
    void(
        *(FLOATS, FLOATS, int64, HALVES, types.UniTuple(int64, 10)),
        *(types.UniTuple(types.float32, 4), FLOATS, FLOATS_OUT, FLOATS_OUT, INTEGERS_OUT),
        *(FLOATS_OUT, BYTES_OUT, HALVES_OUT, BYTES_OUT, BYTES_OUT),
    ),
    error_model="numpy",
    nogil=True,
    cache=True,
)
def fit_lattice(
    x: Any,
    importance: Any,
    columns: int,
    near: Any,
    counts: Any,
    values: Any,
    search: Any,
    real: Any,
    w: Any,
    whole: Any,
    ds: Any,
    scales: Any,
    points: Any,
    negative: Any,
    parts: Any,
) -> None:
    """Fit every super-block of x (float32, rows of `columns` end to end).

    near, counts, values: `Grid`, its whole numbers from dims to options, and the real ones.
    search: the candidates, float32, sixteen each: trials of step 1, factors on the best of them
    (the first is 1), those of step 2, odd numbers, and, to the end, shares of step 3.
    real, w, whole: `Room`, zeros.
    Fills ds (float32, one a super-block), scales (uint8, the l of each sub-block), points (uint16,
    the digits of each group), negative (uint8, the signs of eight weights, the first one's lowest;
    left alone where signs are not stored) and parts (uint8, the list that each point is from).
    """
    grid = Grid(near, *counts, *values)
    groups = BLOCK // grid.dims
    blocks = BLOCK // grid.size
    room = Room(real, w, whole)
    for i in range(HALF + 8, HALF + WIDTH):
        real[i] = _INFINITE
    for block in range(x.size // BLOCK):
        start = block * BLOCK
        unit = read_block(x, start, importance, start % columns, BLOCK, room.real, room.w)
        ds[block] = _fit_block(grid, room, unit, search) * unit
        for j in range(blocks):
            scales[block * blocks + j] = np.uint8((room.real[SCALE + j] - _ONE) * _HALF)
        for i in range(groups):
            points[block * groups + i] = room.whole[POINTS + i]
            parts[block * groups + i] = room.whole[PARTS + i]
        if grid.signs > 0:
            for i in range(BLOCK // 8):
                signs = room.whole[NEGATIVE + i] ^ room.whole[FLIPPED + i]
                negative[block * (BLOCK // 8) + i] = signs
