"""Statistics of activations in one pass: per column, per row, and a histogram of all elements.

Rows are taken one at a time into a buffer of float32, so that bfloat16 costs no pass of its own.
Sums within a call are float32; callers keep calls to a thousand rows or so and add up in float64.
"""

import numpy as np
from numba import njit

from qconvert.kernels.simd import (
    WIDTH,
    fma,
    greatest,
    highest,
    least,
    load,
    magnitude,
    splat,
    store,
    total,
)

SPREAD = 4
"""Histograms side by side, so that equal neighbours do not wait for each other."""


@njit(cache=True, nogil=True)
def _columns(row, squares, sums, minimum, maximum):  # type: ignore[no-untyped-def]
    """Add a row, padded with zeros; its largest absolute value and its sum of squares."""
    energy = splat(np.float32(0))
    peak = splat(np.float32(0))
    for j in range(0, len(row), WIDTH):
        x = load(row, j)
        store(squares, j, fma(x, x, load(squares, j)))
        store(sums, j, load(sums, j) + x)
        store(minimum, j, least(x, load(minimum, j)))
        store(maximum, j, greatest(x, load(maximum, j)))
        energy = fma(x, x, energy)
        peak = greatest(magnitude(x), peak)
    return highest(peak), total(energy)


@njit(cache=True, nogil=True)
def _count(bits, columns, shift, lowest, places, histograms):  # type: ignore[no-untyped-def]
    """Count the elements of a row, float32's bits, by absolute value; negative ones apart."""
    # Unsigned numbers everywhere: signed ones would be tested for counting from the end.
    bins = np.uint32(len(histograms) // SPREAD)
    half = np.int32(bins // 2)
    last = np.int32(half - 1)
    for j in range(len(bits)):
        place = np.int32((bits[j] & np.uint32(0x7FFFFFFF)) >> np.uint32(shift)) - np.int32(lowest)
        negative = half if bits[j] > np.uint32(0x80000000) else np.int32(0)
        places[j] = min(max(place, np.int32(0)), last) + negative
    whole = np.uint64(columns - columns % SPREAD)
    for j in range(np.uint64(0), whole, np.uint64(SPREAD)):
        histograms[places[j]] += 1
        histograms[bins + places[j + np.uint64(1)]] += 1
        histograms[bins + bins + places[j + np.uint64(2)]] += 1
        histograms[bins + bins + bins + places[j + np.uint64(3)]] += 1
    for j in range(whole, np.uint64(columns)):
        histograms[places[j]] += 1


@njit(cache=True, nogil=True)
def _collect(x, row_bits, wide, sums, shifts, lowest, histogram, peaks, energies):  # type: ignore[no-untyped-def]
    columns = x.shape[1]
    row = row_bits.view(np.float32)
    places = np.empty(len(row_bits), np.uint32)
    histograms = np.zeros(SPREAD * len(histogram), np.int32)
    last = len(peaks) - 1
    one = np.empty(1, np.float32)
    for i in range(x.shape[0]):
        for j in range(columns):
            row_bits[j] = np.uint32(x[i, j]) << np.uint32(wide)
        one[0], energy = _columns(row, sums[0], sums[1], sums[2], sums[3])
        _count(row_bits, columns, shifts[0], lowest[0], places, histograms)
        place = np.int32(one.view(np.uint32)[0] >> np.uint32(shifts[1])) - np.int32(lowest[1])
        place = min(max(place, 0), last)
        peaks[place] += 1
        energies[place] += energy
    for k in range(len(histograms)):
        histogram[k % len(histogram)] += histograms[k]


def collect(
    bits: np.ndarray,
    shifts: tuple[int, int],
    lowest: tuple[int, int],
    histogram: np.ndarray,
    peaks: np.ndarray,
    energies: np.ndarray,
) -> np.ndarray:
    """Statistics of some rows.

    Args:
        bits: [rows, columns] of float32 as uint32, or of bfloat16 as uint16; C order.
        shifts: a float32's bits shifted right by this are the number of its bin, for the
            histogram of elements and for that of peaks;
        lowest: less this. What lies below counts in bin 0, what lies above in the last.
        histogram: int64 [2, bins], is added to: elements that are not negative, and those that
            are, by absolute value.
        peaks: int64 [bins], is added to: rows by their largest absolute value.
        energies: float64 [bins], is added to: the sums of squares of such rows.

    Returns:
        float32 [4, columns]: sum of squares, sum, minimum, maximum.
    """
    rows, columns = bits.shape
    padded = -(-columns // WIDTH) * WIDTH
    sums = np.zeros((4, padded), np.float32)
    if rows:
        sums[2], sums[3] = np.inf, -np.inf
        wide = 16 if bits.dtype == np.uint16 else 0
        buffer = np.zeros(padded, np.uint32)
        _collect(bits, buffer, wide, sums, shifts, lowest, histogram.reshape(-1), peaks, energies)
    return np.ascontiguousarray(sums[:, :columns])
