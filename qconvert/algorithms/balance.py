"""Rounding that cancels on the mean input.

The squared error of a row's output has two parts: what the inputs' variances make of each weight's
error, which the search for scales makes small, and the square of what all errors together make of
the mean input. With errors that are left to chance the second part is a sixth to a third of the
whole. One code in a hundred, moved to its other neighbour, removes most of it. The codes that lie
nearest to the middle of two are moved, and the weighted squared error grows by at most BUDGET.
The part of the mean is the first step of what error feedback (GPTQ, arXiv 2210.17323) does with
all of the inputs' second moments.
"""

import numpy as np

from qconvert.formats.quantize import nearest
from qconvert.formats.types import Coded, Format, Grid, Seen, Weights

BUDGET = 0.03
"""The share by which a row's weighted squared error may grow."""

FEWEST, MOST = 4, 64
"""Numbers of values for which it is worth the time: with more of them errors are small, and with
fewer the neighbour is too far away."""


def balanced(format_: Format, x: Weights, seen: Seen | None, peak: float | None) -> Coded:
    """As `nearest`, with a few codes moved; in formats without a fitting grid none are."""
    coded = nearest(format_, x, seen, peak)
    grid = format_.grid(coded.params)
    if seen is None or seen.mean is None or grid is None or not fits(grid):
        return coded
    from qconvert.kernels.balance import balance

    steps = (grid.step.reshape(-1), grid.low.reshape(-1), grid.values)
    inputs = (np.ascontiguousarray(each, np.float32) for each in (seen.square, seen.mean))
    places = (coded.codes - grid.first).astype(np.uint8) if grid.first else coded.codes
    balance(x.reshape(-1), *steps, *inputs, max(x.shape[1], 1), BUDGET, places.reshape(-1))
    return coded._replace(codes=(places + grid.first).astype(coded.codes.dtype))


def fits(grid: Grid) -> bool:
    """Whether neighbouring codes are neighbouring values, and those neither few nor many."""
    return FEWEST <= grid.values.size <= MOST and bool(np.all(np.diff(grid.values) > 0))
