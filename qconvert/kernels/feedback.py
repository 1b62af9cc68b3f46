"""Rounds weights column by column; the columns that follow take up the error of each."""

from typing import Any

import numpy as np
from numba import float32, int64, njit, uint8, void

from qconvert.kernels.blocks import BYTES, FLOATS

_ZERO = np.float32(0.0)


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
    """Round w [rows, n]; what is left in it is what each weight had become when it was rounded.

    factor: [n, n], upper triangular.
    begin: the column of the first one in its span, whose groups of `size` columns have the
        `step` and `low` [rows, groups].
    values: ascending; middles: what lies between two of them; places: the code of each.
    errors: [rows, n], divided by the factor's diagonal.
    """
    rows, columns = w.shape
    for row in range(rows):
        own = w[row]
        for j in range(columns):
            group = (begin + j) // size
            unit = step[row, group]
            shift = low[row, group]
            at = (own[j] + shift) / unit if unit != _ZERO else _ZERO
            first = 0
            last = middles.size
            while first < last:
                middle = (first + last) >> 1
                if middles[middle] < at:
                    first = middle + 1
                else:
                    last = middle
            codes[row, j] = places[first]
            error = (own[j] - (unit * values[first] - shift)) / factor[j, j]
            for k in range(j + 1, columns):
                own[k] -= error * factor[j, k]
            errors[row, j] = error
