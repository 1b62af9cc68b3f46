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
INTEGERS_OUT = types.Array(types.int32, 1, "C")
HALVES_OUT = types.Array(types.uint16, 1, "C")

LISTED = 2048
"""Points in all lists of a super-block, at most."""

# Places in `Room.real`.
A = BLOCK  # The weights as the grid sees them: without the signs that are stored apart.
FREE = A + BLOCK  # Of sub-blocks: scales with weights rounded freely,
SQUARES = FREE + WIDTH  # the sums of squares that go with these,
SCALE = SQUARES + WIDTH  # and the scales chosen; in the end odd numbers.
HALF = SCALE + WIDTH  # Zero for the first eight lanes, infinite for the others; then the reverse.
TURN = HALF + WIDTH + 8  # Of eight weights: -1 where a sign must be flipped, else 1.
CURVE = TURN + BLOCK // 8  # Of the error along d.
SLOPE = CURVE + 1
Q = SLOPE + 1  # Sums over points.
C = Q + LISTED
REALS = C + LISTED

# Places in `Room.whole`.
ROWS = (
    2 * BLOCK
)  # Before: weights rounded freely, for each list. Here: where lists begin in `near`.
PICKED = ROWS + 64  # The places of points in all lists.
NEGATIVE = PICKED + 64  # Of eight weights: signs, a bit each,
FLIPPED = NEGATIVE + 32  # and the one that was flipped.
POINTS = FLIPPED + 32  # What was found: the digits of points, and the lists that they are from.
PARTS = POINTS + 64
WHOLES = PARTS + 64

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


class Grid(NamedTuple):
    """A format's points and scales.

    Attributes:
        near: uint16 [combinations * listed], the points near each combination of levels, nearest
            first, as digits of `bits` bits. A combination's first level counts least in its index.
        dims, bits, levels: weights of a point, bits of a digit, number of digits.
        listed, few: points of a list, and those that are tried before d is known.
        size, reach: weights of a sub-block, number of its l.
        signs: 0 none (levels have signs), 1 free, 2 those of eight weights multiply to plus.
        lists: of a group, with different lows.
        options: of how many lists all groups of a sub-block choose the same; 1 for free choice.
        low, step, bump: digit k stands for low + k * step, and bump more if it is the last.
        shift: what low is more in the second list.
    """

    near: Any
    dims: Any
    bits: Any
    levels: Any
    listed: Any
    few: Any
    size: Any
    reach: Any
    signs: Any
    lists: Any
    options: Any
    low: Any
    step: Any
    bump: Any
    shift: Any


class Room(NamedTuple):
    """Working arrays. Few, because each one makes every call longer.

    Attributes:
        real: float32 [REALS]: the weights of a super-block, and what is named above.
        w: float32 [256], importances.
        whole: int32 [WHOLES].
    """

    real: Any
    w: Any
    whole: Any


@njit(error_model="numpy", forceinline=True)
def _flip(room: Any, k: int, cost: Any) -> None:
    """Make the product of eight signs positive, for sixteen weights from k on: flip the one that
    it costs least. The grid sees it as a negative weight."""
    for half in range(2):
        start = k + 8 * half
        first = argmin(cost + load(room.real, HALF + 8 * half))
        turn = room.real[TURN + (start >> 3)]
        room.real[A + k + first] *= turn
        if turn < _ZERO:
            room.whole[FLIPPED + (start >> 3)] = 1 << (first & 7)
            room.whole[k + first] = 0


@njit(error_model="numpy")
def _strip_signs(grid: Any, room: Any) -> None:
    keep_apart()
    for k in range(0, BLOCK, WIDTH):
        x = load(room.real, k)
        a = magnitude(x) if grid.signs > 0 else x
        store(room.real, A + k, a)
        signs = negatives(x)
        for place in (k >> 3, (k >> 3) + 1):
            bits = signs & 255
            signs >>= 8
            parity = bits ^ bits >> 4
            parity ^= parity >> 2
            parity ^= parity >> 1
            room.whole[NEGATIVE + place] = bits
            room.whole[FLIPPED + place] = 0
            room.real[TURN + place] = -_ONE if parity & 1 else _ONE
        if grid.signs > 1:
            _flip(room, k, a * load(room.w, k))


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


@njit(error_model="numpy", forceinline=True)
def _round_freely(grid: Any, room: Any, base: int, s: Any) -> None:
    """Digits of a sub-block at scale s, and signs."""
    top = np.float32(grid.levels - 1)
    per_step = _ONE / grid.step
    per_s = per_step / s if s > _NEGLIGIBLE else _ZERO
    for k in range(base, base + grid.size, WIDTH):
        x = load(room.real, k)
        if grid.signs > 0:
            x = magnitude(x)
        for part in range(grid.lists):
            shift = (grid.low + np.float32(part) * grid.shift) * per_step
            digit = greatest(least(rint(x * per_s - shift), top), _ZERO)
            store_indices(room.whole, part * BLOCK + k, digit)
            if grid.signs > 1:
                store(room.real, A + k, x)
                off = fma(digit, grid.step, splat(grid.low)) * s - x
                other = x + grid.low * s
                _flip(room, k, (other * other - off * off) * load(room.w, k))


@njit(error_model="numpy", forceinline=True)
def _weigh(grid: Any, room: Any, base: int, low: Any, row: int, place: int, take: int) -> None:
    """The sums over the points of a list, whose group begins at `base`."""
    last = np.float32(grid.levels) - np.float32(1.5)
    mask = (1 << grid.bits) - 1
    for part in range(0, take, WIDTH):
        qq = splat(_ZERO)
        qx = splat(_ZERO)
        for i in range(grid.dims):
            digit = load_digits(grid.near, row + part, i * grid.bits, mask)
            value = fma(digit, grid.step, where_less(last, digit, low + grid.bump, low))
            wv = value * at(room.w, base + i)
            qq = fma(wv, value, qq)
            qx = fma(wv, at(room.real, A + base + i), qx)
        store(room.real, Q + place + part, qq)
        store(room.real, C + place + part, qx * np.float32(-2))


@njit(error_model="numpy")
def _list_points(grid: Any, room: Any, j: int, s: Any, take: int) -> None:
    """Lists of `take` points for all groups of a sub-block, for scales near s."""
    keep_apart()
    base = j * grid.size
    _round_freely(grid, room, base, s)
    for start in range(base, base + grid.size, grid.dims):
        for part in range(grid.lists):
            index = 0
            for i in range(grid.dims):
                index = index * grid.levels + room.whole[part * BLOCK + start + grid.dims - 1 - i]
            place = start // grid.dims * grid.lists + part
            row = index * grid.listed
            room.whole[ROWS + place] = row
            low = grid.low + np.float32(part) * grid.shift
            _weigh(grid, room, start, low, row, place * take, take)


@njit(error_model="numpy")
def _errors(grid: Any, room: Any, j: int, s: Any, take: int) -> Any:
    """The errors of a sub-block at sixteen scales, less that of zeros."""
    keep_apart()
    groups = grid.size // grid.dims
    length = grid.lists // grid.options * take
    best = splat(_INFINITE)
    for option in range(grid.options):
        error = splat(_ZERO)
        for group in range(j * groups, (j + 1) * groups):
            first = group * grid.lists * take + option * length
            even = splat(_INFINITE)
            odd = even
            for k in range(first, first + length, 2):
                even = least(fma(s, at(room.real, Q + k), at(room.real, C + k)), even)
                odd = least(fma(s, at(room.real, Q + k + 1), at(room.real, C + k + 1)), odd)
            error = error + least(even, odd)
        best = least(error, best)
    return best * s


@njit(error_model="numpy")
def _pick(grid: Any, room: Any, j: int, s: Any, odd: Any, take: int) -> None:
    """The best points of a sub-block at scale s; adds to the curve and slope along d."""
    keep_apart()
    groups = grid.size // grid.dims
    length = grid.lists // grid.options * take
    scale = splat(s)
    best = _INFINITE
    curve = _ZERO
    slope = _ZERO
    for option in range(grid.options):
        error = _ZERO
        qq = _ZERO
        qx = _ZERO
        for group in range(j * groups, (j + 1) * groups):
            first = group * grid.lists * take + option * length
            nearest = splat(_INFINITE)
            places = splat(_ZERO)
            for k in range(0, length, WIDTH):
                e = fma(scale, load(room.real, Q + first + k), load(room.real, C + first + k))
                places = where_less(e, nearest, np.float32(k), places)
                nearest = least(e, nearest)
            i = argmin(nearest)
            place = first + np.intp(lane(places, i)) + i
            room.whole[PICKED + group] = place
            error += lane(nearest, i)
            qq += room.real[Q + place]
            qx += room.real[C + place]
        if error < best or option == 0:
            best = error
            curve = qq
            slope = qx
            for group in range(j * groups, (j + 1) * groups):
                place = room.whole[PICKED + group]
                part = place // take
                row = room.whole[ROWS + part]
                room.whole[POINTS + group] = grid.near[row + place - part * take]
                room.whole[PARTS + group] = part % grid.lists
    room.real[CURVE] += odd * odd * curve
    room.real[SLOPE] += odd * slope


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
        odd = lane(odds, argmin(_errors(grid, room, j, odds * d, take)))
        room.real[SCALE + j] = odd
        _pick(grid, room, j, odd * d, odd, take)
    curve = room.real[CURVE]
    fitted = room.real[SLOPE] / (curve * np.float32(-2)) if curve > _NEGLIGIBLE else _ZERO
    return lane(float16(splat(fitted * unit)) / unit, 0)


@njit(error_model="numpy")
def _fit_from(grid: Any, room: Any, factor: Any, unit: Any, search: Any) -> Any:
    """Steps 2 to 4, from the scales of step 1 times a factor."""
    keep_apart()
    for j in range(BLOCK // grid.size):
        s = room.real[FREE + j] * factor
        _list_points(grid, room, j, s, grid.few)
        scales = load(search, NEARBY) * s
        room.real[SCALE + j] = lane(scales, argmin(_errors(grid, room, j, scales, grid.few)))
    d = _choose_unit(grid, room, unit, search)
    return _fit_unit(grid, room, d, unit, search, grid.few)


@njit(error_model="numpy")
def _fit_block(grid: Any, room: Any, unit: Any, search: Any) -> Any:
    """All steps. Returns d; the rest is left in `room`."""
    _strip_signs(grid, room)
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
        _list_points(grid, room, j, room.real[SCALE + j] * d, grid.listed)
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
