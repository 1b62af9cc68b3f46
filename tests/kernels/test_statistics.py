"""Statistics of activations against NumPy."""

import numpy as np
import pytest

from qconvert.calibration.statistics import FIRST, SHIFTS
from qconvert.calibration.types import BINS, PEAK_BINS, PEAKS_PER_OCTAVE, PER_OCTAVE, edges
from qconvert.kernels.statistics import collect


def run(bits: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    histogram = np.zeros((2, BINS), np.int64)
    peaks, energies = np.zeros(PEAK_BINS, np.int64), np.zeros(PEAK_BINS)
    return collect(bits, SHIFTS, FIRST, histogram, peaks, energies), histogram, peaks, energies


def bins_of(values: np.ndarray, per_octave: int) -> np.ndarray:
    """By comparison with the edges that the types promise; below and above in the end bins."""
    found = np.searchsorted(edges(per_octave), np.abs(values).astype(np.float64), "right") - 1
    return np.clip(found, 0, len(edges(per_octave)) - 2)


def values(rows: int, columns: int, seed: int = 0) -> np.ndarray:
    """From far below the lowest edge to far above the highest, with zeros and exact edges."""
    draw = np.random.default_rng(seed)
    x = draw.standard_normal((rows, columns)) * np.exp2(draw.uniform(-30, 25, (rows, columns)))
    x[draw.random(x.shape) < 0.05] = 0
    x[draw.random(x.shape) < 0.05] = -0.0
    x.flat[:: max(x.size // 50, 1)] = 2.0 ** draw.integers(-26, 22)
    return x.astype(np.float32)


@pytest.mark.parametrize("columns", [1, 5, 16, 33, 512])
@pytest.mark.parametrize("rows", [1, 7, 100])
def test_every_number_is_that_of_numpy(rows: int, columns: int):
    x = values(rows, columns)
    sums, histogram, peaks, energies = run(x.view(np.uint32))
    wide = x.astype(np.float64)
    np.testing.assert_allclose(sums[0], (wide**2).sum(0), rtol=1e-5)
    np.testing.assert_allclose(sums[1], wide.sum(0), rtol=1e-5, atol=1e-5 * np.abs(wide).max())
    assert np.array_equal(sums[2], x.min(0))
    assert np.array_equal(sums[3], x.max(0))
    bins = bins_of(x, PER_OCTAVE)
    assert np.array_equal(histogram[0], np.bincount(bins[x >= 0], minlength=BINS))
    assert np.array_equal(histogram[1], np.bincount(bins[x < 0], minlength=BINS))
    rows_bins = bins_of(np.abs(x).max(1), PEAKS_PER_OCTAVE)
    assert np.array_equal(peaks, np.bincount(rows_bins, minlength=PEAK_BINS))
    by_row = np.bincount(rows_bins, (wide**2).sum(1), PEAK_BINS)
    np.testing.assert_allclose(energies, by_row, rtol=1e-5)


def test_bfloat16_counts_as_the_float32_that_it_stands_for():
    narrow = (values(64, 37).view(np.uint32) >> 16).astype(np.uint16)
    wide = narrow.astype(np.uint32) << 16
    for one, other in zip(run(narrow), run(wide), strict=True):
        assert np.array_equal(one, other)


def test_histograms_are_added_to():
    x = values(10, 16).view(np.uint32)
    histogram = np.ones((2, BINS), np.int64)
    collect(x, SHIFTS, FIRST, histogram, np.zeros(PEAK_BINS, np.int64), np.zeros(PEAK_BINS))
    assert np.array_equal(histogram - 1, run(x)[1])


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_what_is_no_number_reaches_the_sums(bad: float):
    x = values(20, 40)
    x[3, 5] = bad
    sums = run(x.view(np.uint32))[0]
    assert not np.isfinite(sums[1, 5])
    assert np.isfinite(np.delete(sums[1], 5)).all()
