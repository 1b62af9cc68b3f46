"""The part of each group's range that loses the least of its histogram."""

from typing import Any

import numpy as np
from numba import int64, njit, void

from qconvert.kernels.blocks import FLOATS, FLOATS_OUT

_STRIDE = 4


@njit(error_model="numpy")
def _divergence(
    x: Any, start: int, size: int, low: Any, high: Any, cells: int, parts: int, counts: Any
) -> Any:
    """The Kullback-Leibler divergence, in nats, of weights, the clipped ones at the ends, from
    values that are spread evenly within each of `cells` equal cells from `low` to `high`. Cells are
    compared in equal parts."""
    counts[:] = 0
    below = 0
    above = 0
    per_part = np.float32(cells * parts) / (high - low)
    for k in range(start, start + size):
        if x[k] < low:
            below += 1
        elif x[k] > high:
            above += 1
        else:
            part = int((x[k] - low) * per_part)
            counts[min(part, cells * parts - 1)] += 1
    inside = size - below - above
    total = 0.0
    for cell in range(cells):
        mass = 0
        for part in range(cell * parts, (cell + 1) * parts):
            mass += counts[part]
        for part in range(cell * parts, (cell + 1) * parts):
            count = counts[part]
            if part == 0:
                count += below
            if part == cells * parts - 1:
                count += above
            if count > 0 and mass == 0:
                return np.inf
            if count > 0:
                total += count * np.log(count * parts * float(inside) / (float(mass) * size))
    return total / size


@njit(
    void(FLOATS, int64, int64, int64, int64, FLOATS, FLOATS_OUT, FLOATS_OUT),
    error_model="numpy",
    nogil=True,
    cache=True,
)
def shrink(
    x: Any,
    columns: int,
    size: int,
    cells: int,
    parts: int,
    shares: Any,
    lows: Any,
    highs: Any,
) -> None:
    """Multiply the range of each group, `lows` to `highs`, with the best of `shares`.

    cells: how many codes there are; parts: of a cell; shares: falling from 1.
    """
    counts = np.empty(cells * parts, np.int64)
    coarse = (shares.size + _STRIDE - 1) // _STRIDE
    group = 0
    for start in range(0, x.size, columns):
        for first in range(start, start + columns, size):
            count = min(size, start + columns - first)
            best = np.inf
            chosen = np.float32(1.0)
            middle = 0
            for step in range(coarse + 2 * _STRIDE):
                # First every fourth share, then those between the best and its neighbours.
                i = step * _STRIDE if step < coarse else middle + step - coarse - _STRIDE
                if i < 0 or i >= shares.size:
                    continue
                low = shares[i] * lows[group]
                high = shares[i] * highs[group]
                if high - low > 0 and np.isfinite(np.float32(cells * parts) / (high - low)):
                    loss = _divergence(x, first, count, low, high, cells, parts, counts)
                    if loss < best:
                        best = loss
                        chosen = shares[i]
                        middle = i if step < coarse else middle
            lows[group] *= chosen
            highs[group] *= chosen
            group += 1
