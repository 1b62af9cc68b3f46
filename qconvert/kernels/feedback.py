"""Rounds weights column by column; the columns that follow take up the error of each.

All rows of a column are worked on at once, so that processors take several in one instruction.
"""

from typing import Any

import numpy as np
from numba import float32, int64, njit, uint8, void

from qconvert.kernels.blocks import BYTES, FLOATS

_HALF = np.float32(0.5)
_ZERO = np.float32(0.0)

FEW = 16
"""Values that are counted through; among more the nearest is searched for."""


@njit(
    void(
        float32[:, ::1],
        float32[:, ::1],
        int64,
        int64,
        float32[:, ::1],
        float32[:, ::1],
        FLOATS,
        FLOATS,
        BYTES,
        uint8[:, ::1],
        float32[:, ::1],
    ),
    error_model="numpy",
    nogil=True,
    cache=True,
)
def round_with_feedback(
    w: Any,
    factor: Any,
    begin: int,
    size: int,
    step: Any,
    low: Any,
    values: Any,
    middles: Any,
    places: Any,
    codes: Any,
    errors: Any,
) -> None:
    """Round w [n, rows]; what is left in it is what each weight had become when it was rounded.

    factor: [n, n], upper triangular.
    begin: the column of the first one in its span, whose groups of `size` columns have the
        `step` and `low` [groups, rows].
    values: ascending; middles: what lies between two of them, or none where values are a step
        apart; places: the code of each.
    errors: [n, rows], divided by the factor's diagonal.
    """
    columns, rows = w.shape
    most = np.float32(values.size - 1)
    nearest = np.empty(rows, np.int64)
    at = np.empty(rows, np.float32)
    for j in range(columns):
        group = (begin + j) // size
        own, off, unit, shift = w[j], errors[j], step[group], low[group]
        for row in range(rows):
            at[row] = (own[row] + shift[row]) / unit[row] if unit[row] != _ZERO else _ZERO
        if middles.size == 0:
            for row in range(rows):
                place = np.ceil(at[row] - values[0] - _HALF)
                place = _ZERO if place < _ZERO else place
                nearest[row] = np.int64(most if place > most else place)
        elif middles.size < FEW:
            nearest[:] = 0
            for middle in middles:
                for row in range(rows):
                    nearest[row] += np.int64(middle < at[row])
        else:
            for row in range(rows):
                first = 0
                last = middles.size
                while first < last:
                    between = (first + last) >> 1
                    if middles[between] < at[row]:
                        first = between + 1
                    else:
                        last = between
                nearest[row] = first
        diagonal = factor[j, j]
        for row in range(rows):
            codes[j, row] = places[nearest[row]]
            off[row] = (own[row] - (unit[row] * values[nearest[row]] - shift[row])) / diagonal
        for k in range(j + 1, columns):
            share, other = factor[j, k], w[k]
            for row in range(rows):
                other[row] -= off[row] * share
