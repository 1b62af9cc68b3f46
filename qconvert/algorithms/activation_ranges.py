"""Static ranges of a linear layer's input, from the histogram that a calibration keeps.

A range from `low` to `high` fixes the values that codes stand for, as compressed-tensors does it:
`scale = max(|low|, |high|) / (spread / 2)`, or without symmetry `scale = (high - low) / spread` and
`zero_point = least code - low / scale`, where `spread` is that of the codes (255 for int8, 896 for
float8 e4m3fn). Zero is always within.

minmax       from the least to the greatest value that was seen
percentile   that percentage of all values is within, as much cut off on either side
mse          the least mean squared distance to the nearest code's value, clipping included
entropy      the least Kullback-Leibler divergence of the values from what the codes can tell of
             them: within one code's cell all values are alike, and what is clipped comes to the
             last cell. The idea is TensorRT's (S. Migacz, "8-bit inference with TensorRT", 2017);
             cells are compared in equal parts, so that any histogram will do.

Within a bin of the histogram, values count as spread evenly.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property, partial
from typing import Any

import numpy as np

from qconvert.calibration.types import PER_OCTAVE, InputStatistics, edges
from qconvert.errors import PlanError
from qconvert.formats.safetensors.types import ActivationFormat, Estimator

FLOAT8_LARGEST = 448.0
COARSE, FINE = 0.5, 1 / 16
"""Steps of the search for a bound, in octaves."""

DEEPEST = 16
"""The search goes no further below the largest value than so many octaves."""

PARTS = 8
"""Equal parts of a cell that the entropy tells apart."""

NO_INPUT = 2.0**-7
"""The scale where nothing but zeros was seen; compressed-tensors' own for bfloat16."""


@dataclass(frozen=True)
class Values:
    """How the elements of an input are distributed.

    Attributes:
        edges: float64 [bins + 1], ascending; the outermost are the extremes.
        counts: float64 [bins].
    """

    edges: np.ndarray
    counts: np.ndarray

    @property
    def low(self) -> float:
        return float(self.edges[0])

    @property
    def high(self) -> float:
        return float(self.edges[-1])

    @cached_property
    def below(self) -> np.ndarray:
        """float64 [bins + 1]: the share of values below each edge."""
        shares: np.ndarray = np.append(0.0, np.cumsum(self.counts)) / self.counts.sum()
        return shares


@dataclass(frozen=True)
class Bounds:
    """Where one input's range lies."""

    scale: float
    zero_point: int
    reach: float
    """The largest absolute value that is not clipped."""


def values(statistics: InputStatistics, matrix: int, symmetric: bool) -> Values | None:
    """The distribution of one matrix's input; of all matrices', where it was never used. None if
    all is zero.

    Raises:
        PlanError: signs are asked for, and the calibration does not tell them.
    """
    used = [matrix] if statistics.count[matrix] else list(range(statistics.matrices))
    low = min(float(statistics.minimum[used].min()), 0.0)
    high = max(float(statistics.maximum[used].max()), 0.0)
    counts = statistics.histogram[used].sum(axis=0).astype(np.float64)
    if statistics.negatives is not None:
        negative = statistics.negatives[used].sum(axis=0).astype(np.float64)
    elif symmetric:
        negative = counts / 2
    else:
        raise PlanError(
            f"the calibration of {statistics.weights[0]} does not tell negative inputs apart",
            "ranges without symmetry need it: calibrate anew, or use minmax",
        )
    if low == high:
        return None
    if statistics.negatives is None:
        low, high = -max(-low, high), max(-low, high)
    return _joined(negative, counts - negative, low, high)


def _joined(negative: np.ndarray, positive: np.ndarray, low: float, high: float) -> Values:
    """Both signs in one histogram, cut at the extremes."""
    bounds = edges(PER_OCTAVE)
    bounds[0] = 0.0
    bounds[-1] = max(bounds[-1], -low, high)
    both = np.append(-bounds[:0:-1], bounds)
    counts = np.append(negative[::-1], positive)
    both = np.clip(both, low, high)
    kept = both[1:] > both[:-1]
    return Values(np.append(both[:-1][kept], high), counts[kept])


def codes(form: ActivationFormat) -> np.ndarray:
    """What the codes stand for before scaling, float64, ascending."""
    if form.type == "int":
        return np.arange(-(2.0 ** (form.bits - 1)), 2.0 ** (form.bits - 1))
    small = np.arange(8) * 2.0**-9
    large = (1 + np.arange(8) / 8)[None] * np.exp2(np.arange(-6.0, 9.0))[:, None]
    positive = np.append(small, large.reshape(-1)[:-1])
    return np.append(-positive[:0:-1], positive)


def bounds(form: ActivationFormat, low: float, high: float) -> Bounds:
    """The range from `low` <= 0 to `high` >= 0."""
    scale, zero = _grid(form, np.array([low]), np.array([high]))
    return Bounds(float(scale[0]), int(zero[0]), max(-low, high))


def _grid(form: ActivationFormat, low: np.ndarray, high: np.ndarray) -> tuple[np.ndarray, ...]:
    """Scales and zero points of ranges, float64 [ranges]."""
    first, last = (float(end) for end in codes(form)[[0, -1]])
    if form.symmetric:
        scale = 2 * np.maximum(-low, high) / (last - first)
        return np.where(scale == 0, NO_INPUT, scale), np.zeros(len(low))
    scale = (high - low) / (last - first)
    scale = np.where(scale == 0, NO_INPUT, scale)
    return scale, np.clip(np.rint(first - low / scale), first, last)


def static_bounds(
    statistics: InputStatistics, matrix: int, form: ActivationFormat, estimator: Estimator
) -> Bounds:
    """The range of one matrix's input, or of the whole layer's where it was never used.

    Raises:
        PlanError: the calibration lacks what the estimator needs.
    """
    if estimator.name == "minmax":
        return bounds(form, *_extremes(statistics, matrix))
    spread = values(statistics, matrix, form.symmetric)
    if spread is None:
        return bounds(form, 0.0, 0.0)
    if estimator.name == "percentile":
        return bounds(form, *_quantiles(spread, form.symmetric, estimator.percentile))
    loss = squared_error if estimator.name == "mse" else divergence
    return _search(spread, form, loss)


def _extremes(statistics: InputStatistics, matrix: int) -> tuple[float, float]:
    used = [matrix] if statistics.count[matrix] else list(range(statistics.matrices))
    low, high = statistics.minimum[used].min(), statistics.maximum[used].max()
    return min(float(low), 0.0), max(float(high), 0.0)


def _quantiles(spread: Values, symmetric: bool, percentile: float) -> tuple[float, float]:
    inside = percentile / 100
    if symmetric:
        reach = _absolute_quantile(spread, inside)
        return -reach, reach
    outside = (1 - inside) / 2
    low, high = np.interp([outside, 1 - outside], spread.below, spread.edges)
    return min(float(low), 0.0), max(float(high), 0.0)


def _absolute_quantile(spread: Values, inside: float) -> float:
    """The reach within which that share of values lies."""
    reaches = np.unique(np.abs(spread.edges))
    shares = np.interp(reaches, spread.edges, spread.below) - np.interp(
        -reaches, spread.edges, spread.below
    )
    return float(np.interp(inside, shares, reaches))


Loss = Callable[[Values, np.ndarray, np.ndarray, np.ndarray], np.ndarray]
"""Of values that are rounded to the nearest of (codes - zero) * scale, for several scales and zero
points, float64 [ranges]."""


def squared_error(
    spread: Values, table: np.ndarray, scale: np.ndarray, zero: np.ndarray
) -> np.ndarray:
    """The mean squared distance to the nearest code's value."""
    middles = (table[1:] + table[:-1]) / 2
    right = (middles - table[:-1]) ** 3
    left = np.append(0.0, (middles - table[1:]) ** 3)
    # Thrice the integral over codes, from the least on up to where each one's cell begins.
    starts = np.append(0.0, np.cumsum(right - left[:-1]))
    where = spread.edges / scale[:, None] + zero[:, None]
    cell = np.searchsorted(middles, where)
    integral = starts[cell] + (where - table[cell]) ** 3 - left[cell]
    density = spread.counts / np.diff(spread.edges) / spread.counts.sum()
    error: np.ndarray = np.diff(integral) @ density * scale**3 / 3
    return error


def divergence(
    spread: Values, table: np.ndarray, scale: np.ndarray, zero: np.ndarray
) -> np.ndarray:
    """The Kullback-Leibler divergence, in nats, of the values, the clipped ones at the ends, from
    values that are alike within each code's cell."""
    cells = np.concatenate((table[:1], (table[1:] + table[:-1]) / 2, table[-1:]))
    parts = np.linspace(cells[:-1], cells[1:], PARTS, endpoint=False, axis=1)
    limits = (np.append(parts, cells[-1]) - zero[:, None]) * scale[:, None]
    below = np.interp(limits, spread.edges, spread.below)
    shares = np.diff(below).reshape(len(scale), len(table), PARTS)
    inside = below[:, -1:] - below[:, :1]
    seen = shares > 0
    told = np.where(seen, shares.sum(2, keepdims=True), 0) / np.maximum(seen.sum(2), 1)[:, :, None]
    shares[:, 0, 0] += below[:, 0]
    shares[:, -1, -1] += 1 - below[:, -1]
    lost = ((shares > 0) & (told <= 0)).any(axis=(1, 2)) | (inside[:, 0] <= 0)
    used = (shares > 0) & (told > 0)
    ratio = np.where(used, shares, 1) * np.where(used, inside[:, :, None], 1)
    terms = np.where(used, shares, 0) * np.log(ratio / np.where(used, told, 1))
    return np.where(lost, np.inf, terms.sum(axis=(1, 2)))


def _search(spread: Values, form: ActivationFormat, loss: Loss) -> Bounds:
    """The bounds of least loss: first in large steps, then round the best in small ones. Without
    symmetry one bound after the other, twice."""
    table = codes(form)

    def cost(low: np.ndarray, high: np.ndarray) -> np.ndarray:
        low, high = np.broadcast_arrays(low, high)
        return loss(spread, table, *_grid(form, low, high))

    def cost_of_low(high: np.ndarray, reaches: np.ndarray) -> np.ndarray:
        return cost(-reaches, high)

    if form.symmetric:
        largest = max(-spread.low, spread.high)
        reach = float(_least(largest, lambda reaches: cost(-reaches, reaches)))
        return bounds(form, -reach, reach)
    low, high = np.array(spread.low), np.array(spread.high)
    for _ in range(2):
        high = _least(spread.high, partial(cost, low))
        low = -_least(-spread.low, partial(cost_of_low, high))
    return bounds(form, float(low), float(high))


def _least(largest: float, cost: Callable[[np.ndarray], np.ndarray]) -> Any:
    """The reach of least cost, at most `largest`; the larger of equals."""
    if not largest:
        return np.array(0.0)
    coarse = np.arange(0.0, DEEPEST, COARSE)
    best = coarse[np.argmin(cost(largest * np.exp2(-coarse)))]
    fine = np.arange(max(best - COARSE, 0.0), best + COARSE, FINE)
    octaves = fine[np.argmin(cost(largest * np.exp2(-fine)))]
    return largest * np.exp2(-octaves)
