"""Search for the scales of IQ4_NL and IQ4_XS, whose codes stand for 16 uneven values.

    IQ4_NL   x' = d * value           blocks of 32
    IQ4_XS   x' = d * scale * value   super-blocks of 256, sub-blocks of 32

The steps are those of `symmetric`; IQ4_NL, without integers, takes the first and the last.

Sixteen candidates lie within a tenth of the first one. So near to each other, they divide a
weight by the scale to places between which at most one boundary of two values lies. It is looked
up once, for the first candidate, and each lane then has two values to choose from. A candidate
further off may see a weight rounded to a value that is not the nearest, and only looks worse than
it is.
"""

from typing import Any, NamedTuple

import numpy as np
from numba import int64, njit, void

from qconvert.kernels.blocks import (
    BYTES_OUT,
    FLOATS,
    FLOATS_OUT,
    IMPORTANCE_FLOOR,
    SIGNED_OUT,
    float16,
    heaviest_of,
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
    splat,
    store,
    store_bytes,
    store_indices,
    total,
    where_less,
)
from qconvert.kernels.units import Sums, choose_unit, extreme, nudged_units

BLOCK = 256
SIZE = 32
COUNT = BLOCK // SIZE
LIMIT = np.float32(32)
_ZERO = np.float32(0.0)
_ONE = np.float32(1.0)
_INFINITE = np.float32(np.inf)
_EXACT = np.float32(1e-6)
_FIRST_CELL = np.float32(-128)
_LAST_CELL = np.float32(127)


class Cells(NamedTuple):
    """Of each whole number from -128 to 127, [256]: the boundary of two values that is nearest
    to the places from it to the next, and the values on both sides. `places` is
    room for the indices of 32 weights."""

    boundary: Any
    below: Any
    above: Any
    places: Any


@njit(error_model="numpy")
def _weigh_by_square(xs: Any, ws: Any) -> None:
    """Where no importance is known, large weights count more, as in the reference: the codebook's
    values are far apart there. Mean divergence of two models without a calibration: 0.19 and 0.20
    so, 0.18 and 0.24 where all weights count alike."""
    for k in range(0, xs.size, WIDTH):
        v = load(xs, k)
        store(ws, k, greatest(v * v, IMPORTANCE_FLOOR))


@njit(error_model="numpy", forceinline=True)
def find_cells(xs: Any, base: int, per_step: float, places: Any) -> None:
    """The index into `Cells` of 32 weights times per_step; 0 for what is no number."""
    for k in range(0, SIZE, WIDTH):
        place = load(xs, base + k) * per_step - _FIRST_CELL
        store_indices(places, k, least(greatest(place, _ZERO), _LAST_CELL - _FIRST_CELL))


@njit(error_model="numpy", forceinline=True)
def nearest(cells: Any, cell: int, place: Any) -> Any:
    """The value nearest to each lane's place."""
    return where_less(place, at(cells.boundary, cell), at(cells.below, cell), at(cells.above, cell))


@njit(error_model="numpy")
def _try_scales(
    xs: Any, ws: Any, count: int, cells: Any, trials: Any, start: int, stop: int, sums: Any
) -> None:
    """Step 1: leave real scales and the sums of their codes in `sums`."""
    keep_apart()
    for j in range(count):
        base = j * SIZE
        peak = extreme(xs, base, SIZE)
        per_peak = _ONE / peak if peak != _ZERO else _ZERO
        best = splat(_INFINITE)
        best_s = splat(_ZERO)
        best_qq = best_s
        for part in range(start, stop, 2 * WIDTH):
            per_s = load(trials, part) * per_peak
            find_cells(xs, base, lane(per_s, 0), cells.places)
            qq = splat(_ZERO)
            qx = splat(_ZERO)
            for k in range(base, base + SIZE):
                x = at(xs, k)
                v = nearest(cells, cells.places[k - base], per_s * x)
                wv = v * at(ws, k)
                qq = fma(wv, v, qq)
                qx = fma(wv, x, qx)
            s = qx * inverse(qq)
            error = (_ZERO - s * qx) * load(trials, part + WIDTH)
            best_s = where_less(error, best, s, best_s)
            best_qq = where_less(error, best, qq, best_qq)
            best = least(error, best)
        i = argmin(best)
        sums.scale[j] = lane(best_s, i)
        sums.qq[j] = lane(best_qq, i)


@njit(error_model="numpy")
def _try_integers(xs: Any, ws: Any, cells: Any, moves: Any, d: Any, sums: Any) -> None:
    """Step 3: of each sub-block's integer and its neighbours, leave the best in `sums`."""
    keep_apart()
    for j in range(COUNT):
        base = j * SIZE
        middle = sums.scale[j] * d
        find_cells(xs, base, _ONE / middle if middle != _ZERO else _ZERO, cells.places)
        scale = greatest(least(load(moves, 0) + sums.scale[j], LIMIT - _ONE), -LIMIT)
        s = scale * d
        per_s = inverse(s)
        qq = splat(_ZERO)
        eq = splat(_ZERO)
        ee = splat(_ZERO)
        for k in range(base, base + SIZE):
            x = at(xs, k)
            w = at(ws, k)
            v = nearest(cells, cells.places[k - base], per_s * x)
            e = fma(s, v, _ZERO - x)
            we = e * w
            ee = fma(we, e, ee)
            eq = fma(we, v, eq)
            qq = fma(v * w, v, qq)
        i = argmin(ee)
        sums.scale[j] = lane(scale, i)
        sums.qq[j] = lane(qq, i)
        sums.error_q[j] = lane(eq, i)


@njit(error_model="numpy")
def _errors(xs: Any, ws: Any, count: int, cells: Any, d: Any, sums: Any) -> Any:
    """Step 4: the weighted squared errors of all sub-blocks for sixteen close d."""
    keep_apart()
    ee = splat(_ZERO)
    for j in range(count):
        s = d * sums.scale[j]
        per_s = inverse(s)
        base = j * SIZE
        find_cells(xs, base, lane(per_s, 0), cells.places)
        for k in range(base, base + SIZE):
            x = at(xs, k)
            v = nearest(cells, cells.places[k - base], per_s * x)
            e = fma(s, v, _ZERO - x)
            ee = fma(e * at(ws, k), e, ee)
    return ee


@njit(error_model="numpy")
def _fit_block(
    xs: Any, ws: Any, cells: Any, unit: Any, search: Any, start: int, units: Any, sums: Any
) -> Any:
    """All steps, with trials from `start` on; d goes to units[0]. Returns the squared error."""
    trials, grid, moves, nudges = search
    _try_scales(xs, ws, COUNT, cells, trials, start, trials.size, sums)
    d = choose_unit(sums, COUNT, LIMIT, unit, grid)
    _try_integers(xs, ws, cells, moves, d, sums)
    scale = load(sums.scale, 0)
    curve = total(scale * scale * load(sums.qq, 0))
    slope = total(scale * load(sums.error_q, 0))
    trial = nudged_units(d, curve, slope, unit, nudges)
    ee = _errors(xs, ws, COUNT, cells, trial, sums)
    i = argmin(ee)
    units[0] = lane(trial, i)
    return lane(ee, i)


@njit(
    void(
        *(FLOATS, FLOATS, int64, FLOATS, FLOATS, FLOATS, FLOATS, FLOATS, FLOATS, FLOATS),
        *(FLOATS_OUT, SIGNED_OUT),
    ),
    error_model="numpy",
    nogil=True,
    cache=True,
)
def fit_iq4_xs(
    x: Any,
    importance: Any,
    columns: int,
    boundary: Any,
    below: Any,
    above: Any,
    trials: Any,
    grid: Any,
    moves: Any,
    nudges: Any,
    ds: Any,
    scales: Any,
) -> None:
    """Fit every super-block of x (float32, rows of `columns` end to end).

    boundary, below, above: `Cells`; trials, grid, moves, nudges: the candidates of the steps.
    Fills ds (float32, one a super-block) and scales (int8, one a sub-block).
    """
    xs = np.empty(BLOCK, np.float32)
    ws = np.empty(BLOCK, np.float32)
    table = np.zeros((3, WIDTH), np.float32)
    sums = Sums(table[0], table[1], table[2])
    units = np.empty(1, np.float32)
    cells = Cells(boundary, below, above, np.empty(SIZE, np.int32))
    search = (trials, grid, moves, nudges)
    for block in range(x.size // BLOCK):
        start = block * BLOCK
        unit = read_block(x, start, importance, start % columns, BLOCK, xs, ws)
        if not heaviest_of(importance, start % columns, BLOCK):
            _weigh_by_square(xs, ws)
        energy = splat(_ZERO)
        for k in range(0, BLOCK, WIDTH):
            energy = fma(load(xs, k) * load(ws, k), load(xs, k), energy)
        best = _INFINITE
        first = 0
        while first >= 0:
            error = _fit_block(xs, ws, cells, unit, search, first, units, sums)
            if error < best or first == 0:
                best = error
                ds[block] = units[0] * unit
                for j in range(COUNT):
                    scales[block * COUNT + j] = np.int8(sums.scale[j])
            # Weights that lie on a grid, up to what float16 makes of it: it may suit the other
            # sign better.
            exact = error < total(energy) * _EXACT
            first = 2 * WIDTH if exact and first == 0 else -1


@njit(
    void(FLOATS, FLOATS, int64, FLOATS, FLOATS, FLOATS, FLOATS, FLOATS, FLOATS_OUT),
    error_model="numpy",
    nogil=True,
    cache=True,
)
def fit_iq4_nl(
    x: Any,
    importance: Any,
    columns: int,
    boundary: Any,
    below: Any,
    above: Any,
    trials: Any,
    nudges: Any,
    ds: Any,
) -> None:
    """Fit every block of x; fills ds (float32, one a block). Arguments as in `fit_iq4_xs`."""
    xs = np.empty(SIZE, np.float32)
    ws = np.empty(SIZE, np.float32)
    table = np.zeros((3, WIDTH), np.float32)
    sums = Sums(table[0], table[1], table[2])
    cells = Cells(boundary, below, above, np.empty(SIZE, np.int32))
    for block in range(x.size // SIZE):
        start = block * SIZE
        unit = read_block(x, start, importance, start % columns, SIZE, xs, ws)
        if not heaviest_of(importance, start % columns, SIZE):
            _weigh_by_square(xs, ws)
        ds[block] = _ZERO
        best = _INFINITE
        # Both signs of the scale to the end: which is better may hang on how float16 rounds it.
        for part in range(0, trials.size, 2 * WIDTH):
            _try_scales(xs, ws, 1, cells, trials, part, part + 2 * WIDTH, sums)
            trial = float16(load(nudges, 0) * (sums.scale[0] * unit)) / unit
            sums.scale[0] = _ONE
            ee = _errors(xs, ws, 1, cells, trial, sums)
            i = argmin(ee)
            if lane(ee, i) < best:
                best = lane(ee, i)
                ds[block] = lane(trial, i) * unit


@njit(
    void(FLOATS, FLOATS, int64, FLOATS, BYTES_OUT),
    error_model="numpy",
    nogil=True,
    cache=True,
)
def round_codebook(x: Any, per_step: Any, size: int, boundaries: Any, codes: Any) -> None:
    """The code of the value nearest to each weight times per_step (one for `size` weights).

    boundaries: between neighbouring values, ascending.
    """
    for j in range(x.size // size):
        for k in range(j * size, (j + 1) * size, WIDTH):
            place = load(x, k) * per_step[j]
            code = splat(_ZERO)
            for i in range(boundaries.size):
                code = code + where_less(place, at(boundaries, i), _ZERO, _ONE)
            store_bytes(codes, k, code)
