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

from typing import Any, NamedTuple

import numpy as np
from numba import int64, njit, types, void

from qconvert.kernels.blocks import (
    BYTES_OUT,
    FLOATS,
    FLOATS_OUT,
    float16,
    inverse,
    read_block,
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
    load_digits,
    magnitude,
    negatives,
    rint,
    splat,
    store,
    store_indices,
    total,
    where_less,
)

BLOCK = 256
HALVES = types.Array(types.uint16, 1, "C", readonly=True)
HALVES_OUT = types.Array(types.uint16, 1, "C")
_ZERO = np.float32(0.0)
_HALF = np.float32(0.5)
_ONE = np.float32(1.0)
_INFINITE = np.float32(np.inf)
_NEGLIGIBLE = np.float32(1e-30)


class Grid(NamedTuple):
    """A format's points and scales.

    Attributes:
        near: uint16 [combinations * count], the points near each combination of levels, as digits
            of `bits` bits. A combination's first level counts least in its index.
        dims, bits, levels: weights of a point, bits of a digit, number of digits.
        count: points of a list.
        size, reach: weights of a sub-block, number of its l.
        signs: 0 none (levels have signs), 1 free, 2 those of eight weights multiply to plus.
        lists: of a group, with different lows.
        options: of how many lists all groups of a sub-block choose the same; 1 for free choice.
        low, step, bump: digit k stands for low[list] + k * step, and bump more if it is the last.
    """

    near: Any
    dims: Any
    bits: Any
    levels: Any
    count: Any
    size: Any
    reach: Any
    signs: Any
    lists: Any
    options: Any
    low: Any
    step: Any
    bump: Any


class Room(NamedTuple):
    """Working arrays of a super-block.

    Attributes:
        x, w: [256], weights and importances.
        a: [256], the weights as the grid sees them: without the signs that are stored apart.
        cost: [264], of flipping a sign; the end is never read into a result.
        beyond: [16], 0 for eight lanes and infinite for the others.
        turn: [32], -1 where a sign of eight weights must be flipped, else 1.
        negative: int64 [32], the signs of eight weights, a bit each.
        flipped: int64 [32], the sign that was flipped, its bit set.
        digits: int32 [256 * lists], weights rounded freely.
        rows: int64 [groups * lists], where lists begin in `near`.
        q, c: [groups * lists * count], sums over points.
        picked: int64 [options * groups], places of points in these.
        free, qq: [16], scales of sub-blocks with weights rounded freely, and sums of squares.
        scale: [16], of sub-blocks: first real scales, then odd numbers.
        fit: [2], curve and slope of the error along d.
    """

    x: Any
    w: Any
    a: Any
    cost: Any
    beyond: Any
    turn: Any
    negative: Any
    flipped: Any
    digits: Any
    rows: Any
    q: Any
    c: Any
    picked: Any
    free: Any
    scale: Any
    qq: Any
    fit: Any


@njit(error_model="numpy", forceinline=True)
def _flip(room: Any, start: int) -> Any:
    """Make the product of eight signs positive: flip the weight that it costs least, if any.

    Returns the place of that weight, whether it was flipped or not.
    """
    first = start + argmin(load(room.cost, start) + load(room.beyond, 0))
    turn = room.turn[start >> 3]
    room.a[first] *= turn
    if turn < _ZERO:
        room.flipped[start >> 3] = 1 << (first - start)
    return first


@njit(error_model="numpy")
def _strip_signs(grid: Any, room: Any) -> None:
    """Set `a`. Of a flipped sign, the grid sees a negative weight."""
    keep_apart()
    for k in range(0, BLOCK, WIDTH):
        x = load(room.x, k)
        a = magnitude(x) if grid.signs > 0 else x
        store(room.a, k, a)
        store(room.cost, k, a * load(room.w, k))
        for start in (k, k + 8):
            bits = (negatives(x) >> (start - k)) & 255
            parity = bits ^ bits >> 4
            parity ^= parity >> 2
            parity ^= parity >> 1
            room.negative[start >> 3] = bits
            room.flipped[start >> 3] = 0
            room.turn[start >> 3] = -_ONE if parity & 1 else _ONE
    if grid.signs > 1:
        for k in range(0, BLOCK, 8):
            _flip(room, k)


@njit(error_model="numpy")
def _try_scales(grid: Any, room: Any, trials: Any) -> None:
    """Step 1: leave real scales of all sub-blocks, and the sums of their squared levels."""
    keep_apart()
    top = np.float32(grid.levels - 1)
    low = (grid.low[0] + grid.low[grid.lists - 1]) * _HALF
    per_step = _ONE / grid.step
    shift = low * per_step
    for j in range(BLOCK // grid.size):
        base = j * grid.size
        fourth = splat(_ZERO)
        second = splat(_ZERO)
        for k in range(base, base + grid.size, WIDTH):
            x = load(room.a, k)
            xx = x * x
            wxx = xx * load(room.w, k)
            second = second + wxx
            fourth = fma(wxx, xx, fourth)
        energy = total(second)
        # How large the weights are that matter.
        peak = np.sqrt(total(fourth) / energy) if energy > _NEGLIGIBLE else _ZERO
        per_s = inverse(load(trials, 0) * peak) * per_step
        qq = splat(_ZERO)
        qx = splat(_ZERO)
        for k in range(base, base + grid.size):
            x = at(room.a, k)
            digit = greatest(least(rint(per_s * x - shift), top), _ZERO)
            value = fma(digit, grid.step, splat(low))
            wv = value * at(room.w, k)
            qq = fma(wv, value, qq)
            qx = fma(wv, x, qx)
        s = qx * inverse(qq)
        i = argmin(_ZERO - s * qx)
        room.free[j] = lane(s, i) if peak > _ZERO else _ZERO
        room.qq[j] = lane(qq, i)


@njit(error_model="numpy", forceinline=True)
def _round_freely(grid: Any, room: Any, base: int, s: Any) -> None:
    """Digits of a sub-block at scale s, and signs."""
    top = np.float32(grid.levels - 1)
    per_s = _ONE / s if s > _NEGLIGIBLE else _ZERO
    per_step = _ONE / grid.step
    for part in range(grid.lists):
        low = grid.low[part]
        shift = low * per_step
        for k in range(base, base + grid.size, WIDTH):
            x = load(room.x, k)
            if grid.signs > 0:
                x = magnitude(x)
            digit = greatest(least(rint(x * (per_s * per_step) - shift), top), _ZERO)
            store_indices(room.digits, part * BLOCK + k, digit)
            if grid.signs > 1:
                store(room.a, k, x)
                off = fma(digit, grid.step, splat(low)) * s - x
                flipped = x + low * s
                store(room.cost, k, (flipped * flipped - off * off) * load(room.w, k))
    if grid.signs > 1:
        for start in range(base, base + grid.size, 8):
            k = _flip(room, start)
            if room.turn[start >> 3] < _ZERO:
                room.digits[k] = 0


@njit(error_model="numpy", forceinline=True)
def _weigh(grid: Any, room: Any, base: int, low: Any, row: int, place: int) -> None:
    """The sums over the points of a list, whose group begins at `base`."""
    last = np.float32(grid.levels) - np.float32(1.5)
    mask = (1 << grid.bits) - 1
    for part in range(0, grid.count, WIDTH):
        qq = splat(_ZERO)
        qx = splat(_ZERO)
        for i in range(grid.dims):
            digit = load_digits(grid.near, row + part, i * grid.bits, mask)
            value = fma(digit, grid.step, splat(low)) + where_less(last, digit, grid.bump, _ZERO)
            wv = value * at(room.w, base + i)
            qq = fma(wv, value, qq)
            qx = fma(wv, at(room.a, base + i), qx)
        store(room.q, place + part, qq)
        store(room.c, place + part, qx * np.float32(-2))


@njit(error_model="numpy")
def _list_points(grid: Any, room: Any, j: int, s: Any) -> None:
    """Lists of points for all groups of a sub-block, for scales near s."""
    keep_apart()
    base = j * grid.size
    _round_freely(grid, room, base, s)
    for start in range(base, base + grid.size, grid.dims):
        group = start // grid.dims
        for part in range(grid.lists):
            index = 0
            for i in range(grid.dims):
                k = part * BLOCK + start + grid.dims - 1 - i
                index = index * grid.levels + room.digits[k]
            place = group * grid.lists + part
            room.rows[place] = index * grid.count
            _weigh(grid, room, start, grid.low[part], index * grid.count, place * grid.count)


@njit(error_model="numpy")
def _errors(grid: Any, room: Any, j: int, s: Any) -> Any:
    """The errors of a sub-block at sixteen scales, less that of zeros."""
    keep_apart()
    groups = grid.size // grid.dims
    together = grid.lists // grid.options
    best = splat(_INFINITE)
    for option in range(grid.options):
        error = splat(_ZERO)
        for group in range(j * groups, (j + 1) * groups):
            first = (group * grid.lists + option * together) * grid.count
            nearest = splat(_INFINITE)
            for k in range(first, first + together * grid.count):
                nearest = least(fma(s, at(room.q, k), at(room.c, k)), nearest)
            error = error + nearest
        best = least(error, best)
    return best * s


@njit(error_model="numpy")
def _pick(grid: Any, room: Any, j: int, s: Any, odd: Any, points: Any, parts: Any) -> None:
    """The best points of a sub-block at scale s; adds to the curve and slope along d."""
    keep_apart()
    groups = grid.size // grid.dims
    together = grid.lists // grid.options
    scale = splat(s)
    best = _INFINITE
    for option in range(grid.options):
        error = _ZERO
        qq = _ZERO
        qx = _ZERO
        for group in range(j * groups, (j + 1) * groups):
            first = (group * grid.lists + option * together) * grid.count
            nearest = splat(_INFINITE)
            places = splat(_ZERO)
            for k in range(0, together * grid.count, WIDTH):
                e = fma(scale, load(room.q, first + k), load(room.c, first + k))
                places = where_less(e, nearest, np.float32(k), places)
                nearest = least(e, nearest)
            i = argmin(nearest)
            place = first + np.intp(lane(places, i)) + i
            room.picked[group] = place
            error += lane(nearest, i)
            qq += room.q[place]
            qx += room.c[place]
        if error < best or option == 0:
            best = error
            room.fit[2] = qq
            room.fit[3] = qx
            for group in range(j * groups, (j + 1) * groups):
                place = room.picked[group]
                part = place // grid.count
                points[group] = grid.near[room.rows[part] + place - part * grid.count]
                parts[group] = part % grid.lists
    room.fit[0] += odd * odd * room.fit[2]
    room.fit[1] += odd * room.fit[3]


@njit(error_model="numpy")
def _is_uneven(room: Any) -> Any:
    """Whether the magnitudes of the weights are far from normally distributed: much alike, or
    many of them zero."""
    keep_apart()
    zeros = splat(_ZERO)
    second = splat(_ZERO)
    fourth = splat(_ZERO)
    for k in range(0, BLOCK, WIDTH):
        x = load(room.x, k)
        xx = x * x
        second = second + xx
        fourth = fma(xx, xx, fourth)
        zeros = zeros + where_less(xx, _NEGLIGIBLE, _ONE, _ZERO)
    square = total(second)
    alike = total(fourth) * np.float32(BLOCK) < np.float32(1.35) * square * square
    return alike or total(zeros) > np.float32(BLOCK // 16)


@njit(error_model="numpy")
def _choose_unit(grid: Any, room: Any, unit: Any, shares: Any) -> Any:
    """The d whose odd multiples suit all scales best: the largest scale times one of `shares`, or
    the share of any scale that the least or the largest l has.

    `unit` is the power of two that was divided out of the block, which float16 sees again.
    """
    keep_apart()
    count = BLOCK // grid.size
    most = np.float32(grid.reach - 1)
    peak = highest(load(room.scale, 0))
    best = splat(_INFINITE)
    best_d = splat(_ZERO)
    for part in range(0, shares.size + 2 * WIDTH, WIDTH):
        d = load(room.scale, 0)
        if part < shares.size:
            d = load(shares, part) * peak
        elif part == shares.size:
            d = d / (most + most + _ONE)
        d = float16(d * unit) / unit
        per_d = inverse(d)
        error = splat(_ZERO)
        for j in range(count):
            place = greatest(least(rint((per_d * room.scale[j] - _ONE) * _HALF), most), _ZERO)
            off = (place + place + _ONE) * d - room.scale[j]
            error = fma(off * off, room.qq[j], error)
        best_d = where_less(error, best, d, best_d)
        best = least(error, best)
    return lane(best_d, argmin(best))


@njit(error_model="numpy")
def _fit_unit(grid: Any, room: Any, d: Any, unit: Any, all_l: Any, points: Any, parts: Any) -> Any:
    """Step 4: the best l of each sub-block and its points. Returns the d fitted to them."""
    odds = least(load(all_l, 0), np.float32(grid.reach - 1))
    odds = odds + odds + _ONE
    room.fit[0] = _ZERO
    room.fit[1] = _ZERO
    for j in range(BLOCK // grid.size):
        odd = lane(odds, argmin(_errors(grid, room, j, odds * d)))
        room.scale[j] = odd
        _pick(grid, room, j, odd * d, odd, points, parts)
    curve = room.fit[0]
    fitted = room.fit[1] / (curve * np.float32(-2)) if curve > _NEGLIGIBLE else _ZERO
    return lane(float16(splat(fitted * unit)) / unit, 0)


@njit(error_model="numpy")
def _fit_from(
    grid: Any, room: Any, factor: Any, unit: Any, search: Any, points: Any, parts: Any
) -> Any:
    """Steps 2 to 4, from the scales of step 1 times a factor."""
    keep_apart()
    _, near, shares, all_l = search
    for j in range(BLOCK // grid.size):
        s = room.free[j] * factor
        _list_points(grid, room, j, s)
        scales = load(near, 0) * s
        room.scale[j] = lane(scales, argmin(_errors(grid, room, j, scales)))
    d = _choose_unit(grid, room, unit, shares)
    return _fit_unit(grid, room, d, unit, all_l, points, parts)


@njit(error_model="numpy")
def _fit_block(grid: Any, room: Any, unit: Any, search: Any, points: Any, parts: Any) -> Any:
    """All steps. Returns d; the l are left in room.scale, as odd numbers."""
    trials, _, _, all_l = search
    _strip_signs(grid, room)
    _try_scales(grid, room, trials)
    factor = _ONE
    best = _INFINITE
    # Of weights much alike, quite different scales may be nearly as good.
    starts = trials.size - WIDTH if _is_uneven(room) else 0
    for start in range(starts):
        d = _fit_from(grid, room, trials[WIDTH + start], unit, search, points, parts)
        error = d * (d * room.fit[0] + room.fit[1])
        if error < best:
            best = error
            factor = trials[WIDTH + start]
    d = _fit_from(grid, room, factor, unit, search, points, parts)
    for j in range(BLOCK // grid.size):
        _list_points(grid, room, j, room.scale[j] * d)
    return _fit_unit(grid, room, d, unit, all_l, points, parts)


@njit(
    void(
        *(FLOATS, FLOATS, int64, HALVES, types.UniTuple(int64, 9), FLOATS),
        *(FLOATS, FLOATS, FLOATS, FLOATS),
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
    trials: Any,
    nearby: Any,
    shares: Any,
    all_l: Any,
    ds: Any,
    scales: Any,
    points: Any,
    negative: Any,
    parts: Any,
) -> None:
    """Fit every super-block of x (float32, rows of `columns` end to end).

    near, counts, values: `Grid`, its whole numbers from dims to options, and step, bump and lows.
    trials, nearby, shares, all_l: the candidates of steps 1 to 4, float32 [16]; shares have more,
        and after the trials there are factors on their best, the first of them 1.
    Fills ds (float32, one a super-block), scales (uint8, the l of each sub-block), points (uint16,
    the digits of each group), negative (uint8, the signs of eight weights, the first one's lowest;
    left alone where signs are not stored) and parts (uint8, the list that each point is from).
    """
    dims, bits, levels, count, size, reach, signs, lists, options = counts
    grid = Grid(
        near, dims, bits, levels, count, size, reach, signs, lists, options,
        values[2:], values[0], values[1],
    )  # fmt: skip
    groups = BLOCK // dims
    blocks = BLOCK // size
    tall = np.zeros((4, BLOCK + WIDTH), np.float32)
    short = np.zeros((5, WIDTH), np.float32)
    short[0, WIDTH // 2 :] = _INFINITE
    eights = np.zeros((2, BLOCK // 8), np.int64)
    sums = np.zeros((2, groups * lists * count), np.float32)
    room = Room(
        tall[0], tall[1], tall[2], tall[3], short[0], np.zeros(BLOCK // 8, np.float32),
        eights[0], eights[1], np.zeros(BLOCK * lists, np.int32), np.zeros(groups * lists, np.int64),
        sums[0], sums[1], np.zeros(groups, np.int64), short[1], short[2], short[3], short[4],
    )  # fmt: skip
    for block in range(x.size // BLOCK):
        start = block * BLOCK
        unit = read_block(x, start, importance, start % columns, BLOCK, room.x, room.w)
        first = block * groups
        d = _fit_block(
            grid, room, unit, (trials, nearby, shares, all_l),
            points[first : first + groups], parts[first : first + groups],
        )  # fmt: skip
        ds[block] = d * unit
        for j in range(blocks):
            scales[block * blocks + j] = np.uint8((room.scale[j] - _ONE) * _HALF)
        if signs > 0:
            for i in range(BLOCK // 8):
                negative[(start >> 3) + i] = room.negative[i] ^ room.flipped[i]
