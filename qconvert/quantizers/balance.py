"""Rounding that cancels on the mean input.

The squared error of a row's output has two parts: what the inputs' variances make of each weight's
error, which the search for scales makes small, and the square of what all errors together make of
the mean input. With errors that are left to chance the second part is a sixth to a third of the
whole. One code in a hundred, moved to its other neighbour, removes most of it. The codes that lie
nearest to the middle of two are moved, and the weighted squared error grows by at most BUDGET.
The part of the mean is the first step of what error feedback (GPTQ, arXiv 2210.17323) does with
all of the inputs' second moments.
"""

from typing import Any

import numpy as np

from qconvert.formats.types import Format, Packed, Weights

BUDGET = 0.03
"""The share by which a row's weighted squared error may grow."""

TOPS = {
    "Q4_0": 15,
    "Q4_1": 15,
    "Q5_0": 31,
    "Q5_1": 31,
    "Q2_K": 3,
    "Q3_K": 7,
    "Q4_K": 15,
    "Q5_K": 31,
    "Q6_K": 63,
    "IQ4_NL": 15,
    "IQ4_XS": 15,
}
"""The highest code of the formats whose codes ascend with the weights; the lowest is 0."""


def quantize_balanced(
    format_: Format, x: Weights, importance: np.ndarray, mean: np.ndarray
) -> Packed:
    """As `format_.quantize`, with a few codes moved; formats that are not in TOPS as they are.

    x: float32 [rows, columns]; importance, mean: float32 [columns], the inputs' mean squares and
    means.
    """
    if format_.name not in TOPS:
        return format_.quantize(x, importance)
    assert format_.fit
    assert format_.round
    assert format_.pack
    from qconvert.kernels.balance import balance

    params = format_.fit(x, importance)
    codes = format_.round(x, params)
    moves = np.zeros(x.shape, np.int8)
    top = TOPS[format_.name]
    above, below = np.minimum(codes, top - 1) + 1, np.maximum(codes, 1) - 1
    offs = [_off(format_, x, each.astype(np.uint8), params) for each in (codes, above, below)]
    balance(*offs, importance, mean, max(x.shape[1], 1), BUDGET, moves.reshape(-1))
    return format_.pack((codes.view(np.int8) + moves).view(np.uint8), params)


def _off(format_: Format, x: Weights, codes: np.ndarray, params: Any) -> np.ndarray:
    """x' - x, float32 [weights]."""
    assert format_.pack
    with np.errstate(invalid="ignore"):
        off: np.ndarray = (format_.dequantize(format_.pack(codes, params)) - x).reshape(-1)
    return off
