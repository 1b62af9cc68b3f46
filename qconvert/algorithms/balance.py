"""Rounding that cancels on the mean input.

The squared error of a row's output has two parts: what the inputs' variances make of each weight's
error, which the search for scales makes small, and the square of what all errors together make of
the mean input. With errors that are left to chance the second part is a sixth to a third of the
whole. One code in a hundred, moved to its other neighbour, removes most of it. The codes that lie
nearest to the middle of two are moved, and the weighted squared error grows by at most BUDGET.
The part of the mean is the first step of what error feedback (GPTQ, arXiv 2210.17323) does with
all of the inputs' second moments.
"""

from qconvert.formats.coding import Coded, Seen, nearest
from qconvert.formats.types import Format, Weights

BUDGET = 0.03
"""The share by which a row's weighted squared error may grow."""


def balance(format_: Format, x: Weights, seen: Seen | None, peak: float | None) -> Coded:
    """As the nearest codes, with a few moved; those of formats without a grid, and where no mean
    is known, as they are."""
    coded = nearest(format_, x, seen, peak)
    if format_.grid is None or seen is None or seen.mean is None:
        return coded
    from qconvert.kernels import balance

    step, low, values = format_.grid(coded.params)
    balance.balance(
        x.reshape(-1),
        step.reshape(-1),
        low.reshape(-1),
        values,
        seen.square,
        seen.mean,
        max(x.shape[1], 1),
        BUDGET,
        coded.codes.reshape(-1),
    )
    return coded
