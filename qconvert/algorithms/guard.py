"""Never keep what does not help on tokens that it was not made from.

What counts is the error of a layer's output, of the unseen inputs x with second moments H:

    E |(W' - W) x|^2 = trace((W' - W) H (W' - W)^T)
"""

import numpy as np

from qconvert.formats.types import Arrays, Format, Seen, Weights


def guarded(format_: Format, x: Weights, made: Arrays, base: Arrays, unseen: Seen | None) -> Arrays:
    """What an algorithm has made of a weight, where it beats the base; else the base.

    Args:
        x: the weight.
        made, base: as `format_` packs them.
        unseen: inputs that the algorithm did not see; None for none, and then the base is kept.
    """
    if unseen is None:
        return base
    errors = [output_error(format_.dequantize(arrays) - x, unseen) for arrays in (made, base)]
    return made if errors[0] < errors[1] else base


def output_error(off: np.ndarray, seen: Seen) -> float:
    """The mean over tokens of the squared error of the outputs, summed over rows.

    Args:
        off: float32 [rows, columns], what weights are off by.
        seen: with Hessian exact; else as if the columns were independent.
    """
    off = off.astype(np.float64)
    if seen.hessian is not None:
        return float(np.vdot(off @ seen.hessian, off))
    mean = np.zeros(off.shape[1]) if seen.mean is None else seen.mean.astype(np.float64)
    variance = np.maximum(seen.square - np.square(mean), 0)
    return float((np.square(off) @ variance).sum() + np.square(off @ mean).sum())
