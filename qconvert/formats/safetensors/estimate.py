"""The ranges of weights that share a scale, by each of the estimators."""

import numpy as np

from qconvert.errors import UsageError
from qconvert.formats.safetensors.groups import by_block, group_columns, group_extremes
from qconvert.formats.safetensors.types import Estimator, WeightFormat

WEIGHTS_PER_CODE = 16
"""Where fewer share a scale, a histogram says too little: "entropy" does what "mse" does. So it
does for float codes, which are not evenly spaced."""

_PARTS = 4
_SHARES = (2.0 ** (-np.arange(64) / 8)).astype(np.float32)


def searches(form: WeightFormat, x: np.ndarray, estimator: Estimator) -> bool:
    """Whether scales are to be searched for by their squared error."""
    if form.strategy == "tensor":
        return False
    return estimator.name == "mse" or (estimator.name == "entropy" and not _has_histogram(form, x))


def _has_histogram(form: WeightFormat, x: np.ndarray) -> bool:
    enough = group_columns(form, x.shape[1]) >= WEIGHTS_PER_CODE << form.bits
    return form.type == "int" and enough


def ranges(
    form: WeightFormat, x: np.ndarray, estimator: Estimator, peak: float | None
) -> tuple[np.ndarray, np.ndarray]:
    """Least and greatest values that the codes shall reach, float32 of the shape of scales.

    Symmetric ranges are cut on both sides alike.

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
    if estimator.name == "percentile":
        return _percentiles(form, x, estimator.percentile / 100)
    low, high = group_extremes(form, x)
    if estimator.name == "entropy" and _has_histogram(form, x):
        _shrink(form, x, low, high)
    return low, high


def _percentiles(form: WeightFormat, x: np.ndarray, inside: float) -> tuple[np.ndarray, np.ndarray]:
    """The range of that share of the weights, between neighbours in proportion."""
    if form.block is not None:
        reach = by_block(form.block, np.abs(x), lambda block: np.quantile(block, inside))
        return -reach, reach
    groups = x.reshape(len(x), -1, group_columns(form, x.shape[1]))
    if form.symmetric:
        reach = np.quantile(np.abs(groups), inside, axis=2).astype(np.float32)
        return -reach, reach
    outside = (1 - inside) / 2
    low, high = np.quantile(groups, [outside, 1 - outside], axis=2).astype(np.float32)
    return low, high


def _shrink(form: WeightFormat, x: np.ndarray, low: np.ndarray, high: np.ndarray) -> None:
    """Cut ranges, in place, to the part that loses the least of the histogram."""
    from qconvert.kernels import entropy

    if form.symmetric:
        high[...] = np.maximum(-low, high)
        low[...] = -high
    columns = x.shape[1]
    size = group_columns(form, columns)
    cells = 1 << form.bits
    flat = (low.reshape(-1), high.reshape(-1))
    entropy.shrink(x.reshape(-1), columns, size, cells, _PARTS, _SHARES, *flat)
