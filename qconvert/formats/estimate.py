"""The ranges of weights that share a scale, by each of the estimators."""

import numpy as np

from qconvert.errors import UsageError
from qconvert.formats.compressed import Estimator, WeightFormat
from qconvert.formats.groups import group_columns, group_extremes

ENTROPY_WEIGHTS = 1024
"""Where fewer share a scale, a histogram says too little: "entropy" does what "mse" does."""


def searches(form: WeightFormat, x: np.ndarray, estimator: Estimator) -> bool:
    """Whether scales are to be searched for by their squared error."""
    if form.strategy == "tensor":
        return False
    return estimator.name == "mse" or (estimator.name == "entropy" and _are_few(form, x))


def _are_few(form: WeightFormat, x: np.ndarray) -> bool:
    height = form.block[0] if form.block is not None else 1
    return height * group_columns(form, x.shape[1]) < ENTROPY_WEIGHTS


def ranges(
    form: WeightFormat, x: np.ndarray, estimator: Estimator, peak: float | None
) -> tuple[np.ndarray, np.ndarray]:
    """Least and greatest values that the codes shall reach, float32 of the shape of scales.

    Args:
        x: float32 [rows, columns].
        peak: with "tensor" taken as it is, for these rows are but a part.

    Raises:
        UsageError: no peak where one is needed.
    """
    if form.strategy == "tensor":
        if peak is None:
            raise UsageError("one scale for a tensor needs its largest weight")
        high = np.full((1, 1), peak, np.float32)
        return -high, high
    return group_extremes(form, x)
