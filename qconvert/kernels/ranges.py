"""Least, greatest and largest weights of every group.

Here and in the kernels beside it, x are rows of `columns` end to end, of which every `size` weights
from the left share a scale; the last group of a row may be narrower. Scales and whatever else
belongs to a group lie in the same order.
"""

from typing import Any

from numba import int64, njit, void

from qconvert.kernels.blocks import FLOATS, FLOATS_OUT
from qconvert.kernels.simd import WIDTH, greatest, highest, least, load, lowest, magnitude, splat


@njit(
    void(FLOATS, int64, int64, FLOATS_OUT, FLOATS_OUT),
    error_model="numpy",
    nogil=True,
    cache=True,
)
def extremes(x: Any, columns: int, size: int, lows: Any, highs: Any) -> None:
    """The least and the greatest weight of every group, float32 [groups of all rows]."""
    group = 0
    for start in range(0, x.size, columns):
        for first in range(start, start + columns, size):
            end = min(first + size, start + columns)
            whole = end - (end - first) % WIDTH
            below = splat(x[first])
            above = below
            for k in range(first, whole, WIDTH):
                below = least(load(x, k), below)
                above = greatest(load(x, k), above)
            low = lowest(below)
            high = highest(above)
            for k in range(whole, end):
                low = min(low, x[k])
                high = max(high, x[k])
            lows[group] = low
            highs[group] = high
            group += 1


@njit(void(FLOATS, int64, FLOATS_OUT), error_model="numpy", nogil=True, cache=True)
def magnitudes(x: Any, size: int, tops: Any) -> None:
    """The largest absolute weight of every group of `size`, a multiple of 16."""
    for group in range(tops.size):
        top = magnitude(load(x, group * size))
        for k in range(group * size + WIDTH, (group + 1) * size, WIDTH):
            top = greatest(magnitude(load(x, k)), top)
        tops[group] = highest(top)
