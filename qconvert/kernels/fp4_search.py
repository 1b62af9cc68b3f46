"""Search for the step of e2m1 codes, among those that can be stored, with the least weighted
squared error.

Sixteen steps are tried, one a lane; the best is kept where it is better than the one that was
there.
"""

from typing import Any

import numpy as np
from numba import int64, njit, types, void

from qconvert.kernels.blocks import FLOATS, inverse
from qconvert.kernels.fp4 import e2m1_code
from qconvert.kernels.groups import read_group, shortened
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
    where_less,
)

INDICES_OUT = types.Array(types.int32, 1, "C")
_ZERO = np.float32(0.0)
_ONE = np.float32(1.0)
_INFINITE = np.float32(np.inf)
_TOP = np.float32(6.0)
_SPLIT = np.float32(2**22 + 1)
# Beside it, float32 steps as the least values do, by 0.5.
_SUBNORMAL = np.float32(1.5 * 2**22)
_VALUES = np.array([0, 0.5, 1, 1.5, 2, 3, 4, 6, 0, -0.5, -1, -1.5, -2, -3, -4, -6], np.float32)


@njit(error_model="numpy")
def _errors(xs: Any, ws: Any, size: int, s: Any) -> Any:
    """Of the codes under each lane's scale, the sum of w e e."""
    keep_apart()
    per_s = inverse(s)
    ee = splat(_ZERO)
    for k in range(size):
        x = at(xs, k)
        v = greatest(least(per_s * x, _TOP), -_TOP)
        small = (v + _SUBNORMAL) - _SUBNORMAL
        q = where_less(v * v, _ONE, small, shortened(v, _SPLIT))
        e = fma(s, q, _ZERO - x)
        ee = fma(at(ws, k) * e, e, ee)
    return ee


@njit(error_model="numpy")
def _true_error(
    x: Any, importance: Any, start: int, column: int, size: int, s: Any, weighted: Any
) -> Any:
    """The error of the codes that rounding gives, to the last bit of a double."""
    keep_apart()
    error = 0.0
    for k in range(size):
        q = _VALUES[e2m1_code(x[start + k] / s)]
        e = np.float64(q * s) - np.float64(x[start + k])
        error += e * e * np.float64(importance[column + k]) if weighted > _ZERO else e * e
    return error


@njit(
    void(FLOATS, FLOATS, int64, int64, FLOATS, int64, INDICES_OUT),
    error_model="numpy",
    nogil=True,
    cache=True,
)
def search(
    x: Any, importance: Any, columns: int, size: int, table: Any, below: int, indices: Any
) -> None:
    """Better the index in `table`, of steps that rise, of every group.

    The sixteen from `below` steps below the one at hand are tried. The table has sixteen at least.
    """
    xs = np.empty(size, np.float32)
    ws = np.empty(size, np.float32)
    ends = np.empty(3, np.float32)
    group = 0
    for start in range(0, x.size, columns):
        for column in range(0, columns, size):
            first = start + column
            unit = read_group(x, first, importance, column, size, xs, ws, ends)
            index = indices[group]
            low = min(max(index - below, 0), table.size - WIDTH)
            errors = _errors(xs, ws, size, load(table, low) * (_ONE / unit))
            new = low + argmin(errors)
            if new != index and lane(errors, new - low) < _INFINITE:
                there = _true_error(x, importance, first, column, size, table[index], ends[2])
                ours = _true_error(x, importance, first, column, size, table[new], ends[2])
                if ours < there:
                    indices[group] = new
            group += 1
