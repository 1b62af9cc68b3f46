"""Rounds super-blocks of the IQ1, IQ2 and IQ3 formats a group at a time; the groups that follow
take up the errors of each.

Scales are known, and which shift each group has. Of the points that `qconvert.kernels.lattice`
would consider, a group takes the one that costs least when the columns behind each of its own have
done their best to make up for it. Its signs are those of the weights; where the format has no room
for the eighth, the one is flipped that it costs least to flip.
"""

from typing import Any

import numpy as np
from numba import float32, int64, njit, types, uint8, uint16, void

from qconvert.kernels.blocks import HALVES
from qconvert.kernels.lattice_points import BLOCK

EIGHT = 8
"""Weights whose signs are stored together."""

_ZERO = np.float32(0.0)
_ONE = np.float32(1.0)


@njit(error_model="numpy")
def _cheapest(
    own: Any, inverse: Any, base: int, s: Any, per_s: Any, low: Any, step: Any, levels: int
) -> int:
    """Which of eight weights it costs least to have with the other sign."""
    least = np.float32(np.inf)
    found = 0
    for j in range(EIGHT):
        x = abs(own[base + j])
        place = min(max(np.rint((x * per_s - low) / step), _ZERO), np.float32(levels - 1))
        off = s * (low + place * step) - x
        other = x + s * low
        cost = (other * other - off * off) * inverse[base + j] * inverse[base + j]
        if cost < least:
            least = cost
            found = j
    return found


@njit(
    void(
        *(float32[:, ::1], float32[:, ::1], HALVES, types.UniTuple(int64, 6)),
        *(types.UniTuple(types.float32, 4), float32[:, ::1], uint8[:, ::1]),
        *(uint16[:, ::1], uint8[:, ::1], float32[:, ::1]),
    ),
    error_model="numpy",
    nogil=True,
    cache=True,
)
def round_points_with_feedback(
    x: Any,
    factor: Any,
    near: Any,
    counts: Any,
    values: Any,
    scales: Any,
    parts: Any,
    points: Any,
    negative: Any,
    errors: Any,
) -> None:
    """Round x [rows, 256]; what is left in it is what each weight had become when it was rounded.

    factor: [256, 256], upper triangular.
    near, values: see `qconvert.kernels.lattice_points.Grid`: points by the digits of a combination;
        low, step, bump and shift.
    counts: dims, bits, levels, listed, size and signs of the same.
    scales: [rows, sub-blocks]; parts: [rows, groups], the shift of each.
    points: [rows, groups], the digits of each, which are found; negative: [rows, 32], signs, left
        alone where none are stored; errors: [rows, 256], divided by the factor's diagonal.
    """
    dims, bits, levels, listed, size, signs = counts
    low0, step, bump, shift = values
    mask = (1 << bits) - 1
    sign = np.empty(EIGHT, np.float32)
    off = np.empty(EIGHT, np.float32)
    best_off = np.empty(EIGHT, np.float32)
    table = np.empty(levels, np.float32)
    inverse = np.empty(BLOCK, np.float32)
    for j in range(BLOCK):
        inverse[j] = _ONE / factor[j, j]
    for row in range(len(x)):
        own = x[row]
        lost = errors[row]
        for base in range(0, BLOCK, EIGHT):
            s = scales[row, base // size]
            per_s = _ONE / s if s > _ZERO else _ZERO
            sign[:] = _ONE
            if signs == 2:
                product = _ONE
                for j in range(EIGHT):
                    sign[j] = -_ONE if own[base + j] < _ZERO else _ONE
                    product *= sign[j]
                if product < _ZERO:
                    j = _cheapest(own, inverse, base, s, per_s, low0, step, levels)
                    sign[j] = -sign[j]
            for start in range(base, base + EIGHT, dims):
                low = low0 + np.float32(parts[row, start // dims]) * shift
                for digit in range(levels):
                    table[digit] = s * (low + np.float32(digit) * step)
                table[levels - 1] += s * bump
                if signs == 1:
                    for j in range(start, start + dims):
                        sign[j - base] = -_ONE if own[j] < _ZERO else _ONE
                index = 0
                for i in range(dims - 1, -1, -1):
                    turned = sign[start - base + i] * own[start + i]
                    place = np.rint((turned * per_s - low) / step)
                    place = min(max(place, _ZERO), np.float32(levels - 1))
                    index = index * levels + int64(place)
                least = np.float32(np.inf)
                found = near[index * listed]
                for k in range(index * listed, (index + 1) * listed):
                    point = int64(near[k])
                    cost = _ZERO
                    for i in range(dims):
                        value = table[point >> i * bits & mask]
                        e = own[start + i] - sign[start - base + i] * value
                        for front in range(i):
                            e -= off[front] * factor[start + front, start + i]
                        off[i] = e * inverse[start + i]
                        cost += off[i] * off[i]
                        if cost >= least:
                            break
                    if cost < least:
                        least = cost
                        found = near[k]
                        best_off[:] = off
                points[row, start // dims] = found
                for i in range(dims):  # what each had become when the ones in front were rounded
                    e = best_off[i]
                    lost[start + i] = e
                    across = factor[start + i]
                    for k in range(start + i + 1, BLOCK):
                        own[k] -= e * across[k]
            if signs > 0:
                byte = 0
                for j in range(EIGHT):
                    if sign[j] < _ZERO:
                        byte |= 1 << j
                negative[row, base // EIGHT] = byte
