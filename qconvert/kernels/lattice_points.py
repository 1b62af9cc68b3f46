"""Lists of grid points and what they cost: the inner part of `qconvert.kernels.lattice`."""

from typing import Any, NamedTuple

import numpy as np
from numba import njit

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
    load_digits,
    magnitude,
    negatives,
    rint,
    splat,
    store,
    store_indices,
    where_less,
)

BLOCK = 256
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

_ZERO = np.float32(0.0)
_HALF = np.float32(0.5)
_ONE = np.float32(1.0)
_INFINITE = np.float32(np.inf)
_NEGLIGIBLE = np.float32(1e-30)


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
def strip_signs(grid: Any, room: Any) -> None:
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
def list_points(grid: Any, room: Any, j: int, s: Any, take: int) -> None:
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
def errors(grid: Any, room: Any, j: int, s: Any, take: int) -> Any:
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
def pick(grid: Any, room: Any, j: int, s: Any, odd: Any, take: int) -> None:
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
