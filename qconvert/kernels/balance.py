"""Moves codes by one so that the errors of a row cancel on the mean input."""

from typing import Any

import numpy as np
from numba import float64, int64, njit, void

from qconvert.kernels.blocks import FLOATS, SIGNED_OUT

_SHARES = np.array([0.01, 0.03, 0.1, 0.3, 1.0])
_DEAREST = 0.05
_ENOUGH = 1e-4


@njit(
    void(FLOATS, FLOATS, FLOATS, FLOATS, FLOATS, int64, float64, SIGNED_OUT),
    error_model="numpy",
    nogil=True,
    cache=True,
)
def balance(
    here: Any,
    above: Any,
    below: Any,
    importance: Any,
    mean: Any,
    columns: int,
    budget: float,
    moves: Any,
) -> None:
    """Fill moves (int8, one a weight) with 1, -1 or 0.

    here, above, below: x' - x of each weight with its code, the next one and the one before.
    importance, mean: of each column's input, the mean square and the mean.
    budget: by what share the weighted squared error of a row may grow.

    The cheapest moves come first: in each of five passes what is left of the mean error counts
    for more.
    """
    for start in range(0, here.size, columns):
        off = 0.0
        error = 0.0
        for j in range(columns):
            e = np.float64(here[start + j])
            off += e * mean[j]
            error += e * e * importance[j]
        left = budget * error
        for share in _SHARES:
            if not off * off > _ENOUGH * error:
                break
            for j in range(columns):
                if moves[start + j] != 0:
                    continue
                e = np.float64(here[start + j])
                upward = (off < 0.0) == (mean[j] > 0.0)
                # A negative step turns the codes round: then the other neighbour is meant.
                if (above[start + j] > e) != upward:
                    new = np.float64(below[start + j])
                    move = -1
                else:
                    new = np.float64(above[start + j])
                    move = 1
                cost = importance[j] * (new * new - e * e)
                if cost > left:
                    continue
                shift = (new - e) * mean[j]
                change = max(cost - shift * shift, _DEAREST * cost)
                change += share * ((off + shift) * (off + shift) - off * off)
                if change < 0.0:
                    moves[start + j] = move
                    off += shift
                    left -= cost
