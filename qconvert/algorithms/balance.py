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

from qconvert.formats.types import Format, Packed, Weights

BUDGET = 0.03
"""The share by which a row's weighted squared error may grow."""


def quantize_balanced(
    format_: Format, x: Weights, importance: np.ndarray, mean: np.ndarray
) -> Packed:
    """As `format_.quantize`, with a few codes moved; formats without a grid as they are.

    x: float32 [rows, columns]; importance, mean: float32 [columns], the inputs' mean squares and
    means.
    """
    if format_.grid is None:
        return format_.quantize(x, importance)
    assert format_.fit
    assert format_.round
    assert format_.pack
    from qconvert.kernels.balance import balance

    params = format_.fit(x, importance)
    codes = format_.round(x, params)
    step, low, values = format_.grid(params)
    grid = (step.reshape(-1), low.reshape(-1), values)
    balance(x.reshape(-1), *grid, importance, mean, max(x.shape[1], 1), BUDGET, codes.reshape(-1))
    return format_.pack(codes, params)
