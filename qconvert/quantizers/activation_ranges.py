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
from functools import cached_property

import numpy as np

from qconvert.calibration.types import PER_OCTAVE, InputStatistics, edges
from qconvert.errors import PlanError
from qconvert.formats.compressed import ActivationFormat, Estimator

FLOAT8_LARGEST = 448.0
COARSE, FINE = 0.5, 1 / 16
"""Steps of the search for a bound, in octaves."""

DEEPEST = 20
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
    table = codes(form)
    spread = float(table[-1] - table[0])
    if form.symmetric:
        reach = max(-low, high)
        return Bounds(reach / (spread / 2) or NO_INPUT, 0, reach)
    scale = (high - low) / spread or NO_INPUT
    zero = int(np.clip(np.rint(table[0] - low / scale), table[0], table[-1]))
    return Bounds(scale, zero, max(-low, high))


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


Loss = Callable[[Values, np.ndarray], float]


def squared_error(spread: Values, points: np.ndarray) -> float:
    """The mean squared distance of the values to the nearest of `points`, ascending."""
    middles = (points[1:] + points[:-1]) / 2
    right = (middles - points[:-1]) ** 3
    left = (middles - points[1:]) ** 3
    # The integral from the first point on, up to the beginning of each point's cell.
    starts = np.append(0.0, np.cumsum(right - np.append(0.0, left[:-1])))
    offsets = np.append(0.0, left)
    cell = np.searchsorted(middles, spread.edges)
    integral = (starts[cell] + (spread.edges - points[cell]) ** 3 - offsets[cell]) / 3
    density = spread.counts / np.diff(spread.edges)
    return float(density @ np.diff(integral) / spread.counts.sum())


def divergence(spread: Values, points: np.ndarray) -> float:
    """The Kullback-Leibler divergence, in nats, of the values, the clipped ones at the ends, from
    values that are alike within the cell of each of `points`."""
    cells = np.concatenate(([points[0]], (points[1:] + points[:-1]) / 2, [points[-1]]))
    parts = np.linspace(cells[:-1], cells[1:], PARTS, endpoint=False)
    limits = np.append(parts.T.reshape(-1), cells[-1])
    shares = np.diff(np.interp(limits, spread.edges, spread.below)).reshape(-1, PARTS)
    seen = shares > 0
    told = np.where(seen, shares.sum(1, keepdims=True) / np.maximum(seen.sum(1), 1)[:, None], 0.0)
    inside = shares.sum()
    shares[0, 0] += np.interp(limits[0], spread.edges, spread.below)
    shares[-1, -1] += 1 - np.interp(limits[-1], spread.edges, spread.below)
    if inside <= 0 or (told[shares > 0] <= 0).any():
        return np.inf
    used = shares > 0
    return float(np.sum(shares[used] * np.log(shares[used] * inside / told[used])))


def _search(spread: Values, form: ActivationFormat, loss: Loss) -> Bounds:
    """The bounds of least loss: first in large steps, then round the best in small ones. Without
    symmetry one bound after the other, twice."""
    table = codes(form)

    def cost(low: float, high: float) -> float:
        made = bounds(form, low, high)
        return loss(spread, (table - made.zero_point) * made.scale)

    if form.symmetric:
        reach = _least(max(-spread.low, spread.high), lambda reach: cost(-reach, reach))
        return bounds(form, -reach, reach)
    low, high = spread.low, spread.high
    for _ in range(2):
        high = _least(spread.high, lambda high: cost(low, high)) if spread.high > 0 else 0.0  # noqa: B023
        low = -_least(-spread.low, lambda low: cost(-low, high)) if spread.low < 0 else 0.0  # noqa: B023
    return bounds(form, low, high)


def _least(largest: float, cost: Callable[[float], float]) -> float:
    """The reach of least cost, at most `largest`; the larger of equals."""
    coarse = np.arange(0.0, DEEPEST, COARSE)
    best = coarse[np.argmin([cost(largest * 2.0**-octaves) for octaves in coarse])]
    fine = np.arange(max(best - COARSE, 0.0), best + COARSE, FINE)
    octaves = fine[np.argmin([cost(largest * 2.0**-octaves) for octaves in fine])]
    return float(largest * 2.0**-octaves)
