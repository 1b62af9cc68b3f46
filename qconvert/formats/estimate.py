"""The ranges of weights that share a scale, by each of the estimators."""

import numpy as np

from qconvert.errors import UsageError
from qconvert.formats.compressed import Estimator, WeightFormat
from qconvert.formats.groups import group_extremes


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
