"""Rounds weights column by column; the columns that follow take up the error of each.

All rows of a column are worked on at once, so that processors take several in one instruction, and
errors are taken on by some columns at a time, so that each weight is fetched once for all of them.
"""

from typing import Any

import numpy as np
from numba import float32, int64, njit, uint8, void

from qconvert.kernels.blocks import BYTES, FLOATS

_HALF = np.float32(0.5)
_ZERO = np.float32(0.0)

TOGETHER = 8
"""Columns whose errors are taken on together by those behind them."""

FEW = 16
"""Values that are counted through; among more the nearest is searched for."""


@njit(
    void(FLOATS, FLOATS, FLOATS, float32, int64[::1]),
    error_model="numpy",
    nogil=True,
    cache=True,
)
def _find_nearest(at: Any, values: Any, middles: Any, most: Any, nearest: Any) -> None:
    """The place of the value that is nearest to each of `at`; of two the lower one."""
    rows = at.size
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


@njit(
    void(float32[:, ::1], float32[:, ::1], int64, float32[:, ::1]),
    error_model="numpy",
    nogil=True,
    cache=True,
)
def _take_errors(w: Any, factor: Any, first: int, errors: Any) -> None:
    """Columns behind take on the errors of eight, from `first` on."""
    columns, rows = w.shape
    e0, e1, e2, e3 = errors[first], errors[first + 1], errors[first + 2], errors[first + 3]
    e4, e5, e6, e7 = errors[first + 4], errors[first + 5], errors[first + 6], errors[first + 7]
    for k in range(first + TOGETHER, columns):
        own = w[k]
        s0, s1, s2, s3 = (
            factor[first, k],
            factor[first + 1, k],
            factor[first + 2, k],
            factor[first + 3, k],
        )
        s4, s5, s6, s7 = (
            factor[first + 4, k],
            factor[first + 5, k],
            factor[first + 6, k],
            factor[first + 7, k],
        )
        for row in range(rows):
            own[row] -= (
                e0[row] * s0
                + e1[row] * s1
                + e2[row] * s2
                + e3[row] * s3
                + e4[row] * s4
                + e5[row] * s5
                + e6[row] * s6
                + e7[row] * s7
            )


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
    for first in range(0, columns, TOGETHER):
        behind = min(first + TOGETHER, columns)
        for j in range(first, behind):
            group = (begin + j) // size
            own, off, unit, shift = w[j], errors[j], step[group], low[group]
            for front in range(first, j):
                share, error = factor[front, j], errors[front]
                for row in range(rows):
                    own[row] -= error[row] * share
            for row in range(rows):
                at[row] = (own[row] + shift[row]) / unit[row] if unit[row] != _ZERO else _ZERO
            _find_nearest(at, values, middles, most, nearest)
            diagonal = factor[j, j]
            for row in range(rows):
                codes[j, row] = places[nearest[row]]
                off[row] = (own[row] - (unit[row] * values[nearest[row]] - shift[row])) / diagonal
        if behind < columns:  # so there are as many as are taken together
            _take_errors(w, factor, first, errors)


@njit(
    void(
        int64,
        float32[:, ::1],
        uint8[:, ::1],
        float32[:, ::1],
        float32[:, ::1],
        float32[::1],
        float32[:, ::1],
        uint8[:, ::1],
        float32[:, ::1],
        float32[:, ::1],
    ),
    error_model="numpy",
    nogil=True,
    cache=True,
)
def keep_better(
    step: int,
    target: Any,
    codes: Any,
    errors: Any,
    become: Any,
    least: Any,
    best: Any,
    best_codes: Any,
    best_errors: Any,
    total: Any,
) -> None:
    """Keep what a try has made of the rows whose error is less than it was.

    step: so many rows count as one.
    target: [rows, columns], what scales were fitted to; codes, errors, become: [columns, rows],
        what came of it.
    least: [rows], the errors so far; best, best_codes, best_errors: what made them.
    total: the sum of `become` over the tries.
    """
    columns, rows = errors.shape
    own = np.zeros(rows, np.float32)
    better = np.zeros(rows, np.bool_)
    for j in range(columns):
        for row in range(rows):
            own[row] += errors[j, row] * errors[j, row]
            total[j, row] += become[j, row]
    for first in range(0, rows, step):
        behind = min(first + step, rows)
        error = own[first:behind].sum()
        for row in range(first, behind):
            better[row] = error < least[row]
            if better[row]:
                least[row] = error
                best[row] = target[row]
    for j in range(columns):
        for row in range(rows):
            if better[row]:
                best_codes[j, row] = codes[j, row]
                best_errors[j, row] = errors[j, row]
