"""The estimators of ranges, for weights and activations alike.

minmax       everything is within
percentile   so many percent are within
mse          rounded values are nearest by mean squared error
entropy      the rounded histogram is nearest by Kullback-Leibler divergence
"""

from typing import cast, get_args

from qconvert.errors import UsageError
from qconvert.formats.safetensors.types import PERCENTILES, Estimator, EstimatorName

ESTIMATORS: tuple[str, ...] = get_args(EstimatorName)


def estimator(name: str, percentile: float | None = None) -> Estimator:
    """The estimator of that name.

    Args:
        percentile: in percent, within PERCENTILES; with "percentile" alone.

    Raises:
        UsageError: no such estimator or percentile.
    """
    if name not in ESTIMATORS:
        raise UsageError(f"no range estimator {name!r:.60}", f"known: {', '.join(ESTIMATORS)}")
    if percentile is None:
        return Estimator(cast(EstimatorName, name))
    if name != "percentile":
        raise UsageError(f"a percentile means nothing to {name}", "choose the estimator percentile")
    above, most = PERCENTILES
    if not above < percentile <= most:
        raise UsageError(f"percentile {percentile:g} is not above {above:g} and at most {most:g}")
    return Estimator("percentile", percentile)


__all__ = ["ESTIMATORS", "Estimator", "EstimatorName", "estimator"]
