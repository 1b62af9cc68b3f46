"""Moves codes by one so that the errors of a row cancel on the mean input."""

from typing import Any

import numpy as np
from numba import float64, int64, njit, void

from qconvert.kernels.blocks import BYTES_OUT, FLOATS

_SHARES = np.array([0.01, 0.03, 0.1, 0.3, 1.0])
_DEAREST = 0.05
_ENOUGH = 1e-4


@njit(
    void(FLOATS, FLOATS, FLOATS, FLOATS, FLOATS, FLOATS, int64, float64, BYTES_OUT),
    error_model="numpy",
    nogil=True,
    cache=True,
)
def balance(
    x: Any,
    step: Any,
    low: Any,
    values: Any,
    importance: Any,
    mean: Any,
    columns: int,
    budget: float,
    codes: Any,
) -> None:
    """Change some codes (uint8, one a weight) by one.

    step, low, values: x' = step * values[code] - low, of groups of equal width.
    importance, mean: of each column's input, the mean square and the mean.
    budget: by what share the weighted squared error of a row may grow.

    The cheapest moves come first: in each of five passes what is left of the mean error counts
    for more.
    """
    size = x.size // max(step.size, 1)
    top = values.size - 1
    moved = np.empty(columns, np.bool_)
    errors = np.empty(columns)
    for start in range(0, x.size, columns):
        off = 0.0
        error = 0.0
        for first in range(0, columns, size):
            group = (start + first) // size
            for j in range(first, first + size):
                value = step[group] * values[codes[start + j]] - low[group]
                e = np.float64(value - x[start + j])
                errors[j] = e
                moved[j] = False
                off += e * mean[j]
                error += e * e * importance[j]
        left = budget * error
        for share in _SHARES:
            if not off * off > _ENOUGH * error:
                break
            for first in range(0, columns, size):
                group = (start + first) // size
                for j in range(first, first + size):
                    upward = (off < 0.0) == (mean[j] > 0.0)
                    e = errors[j]
                    # The weight lies on the way there only if its code's value is on this side,
                    # and every other move is dear.
                    if moved[j] or (e > 0.0) == upward:
                        continue
                    # With a negative step values descend.
                    other = np.int64(codes[start + j])
                    other += 1 if (step[group] > 0.0) == upward else -1
                    if other < 0 or other > top:
                        continue
                    value = step[group] * values[other] - low[group]
                    new = np.float64(value - x[start + j])
                    cost = importance[j] * (new * new - e * e)
                    if cost > left:
                        continue
                    shift = (new - e) * mean[j]
                    change = max(cost - shift * shift, _DEAREST * cost)
                    change += share * ((off + shift) * (off + shift) - off * off)
                    if change < 0.0:
                        codes[start + j] = np.uint8(other)
                        moved[j] = True
                        off += shift
                        left -= cost
