"""Never keep what does not help on tokens that it was not made from.

What counts is the error of a layer's output, of the unseen inputs x with second moments H:

    E |(W' - W) x|^2 = trace((W' - W) H (W' - W)^T)

Where a layer's surroundings have drifted, it should give d besides (`qconvert.algorithms.drift`):

    E |(W' - W) x - d|^2 = trace((W' - W) H (W' - W)^T) - 2 trace((W' - W)^T E d x^T) + E |d|^2
"""

import numpy as np

from qconvert.formats.types import Arrays, Format, Seen, Weights


def guarded(
    format_: Format,
    x: Weights,
    made: Arrays,
    base: Arrays,
    unseen: Seen | None,
    besides: np.ndarray | None = None,
) -> Arrays:
    """What an algorithm has made of a weight, where it beats the base; else the base.

    Args:
        x: the weight.
        made, base: as `format_` packs them.
        unseen: inputs that the algorithm did not see; None for none, and then the base is kept.
        besides: E d x^T, float32 [rows, columns]; None for d = 0.
    """
    if unseen is None:
        return base
    errors = [output_error(format_.dequantize(one) - x, unseen, besides) for one in (made, base)]
    return made if errors[0] < errors[1] else base


def output_error(off: np.ndarray, seen: Seen, besides: np.ndarray | None = None) -> float:
    """The mean over tokens of the squared error of the outputs, summed over rows; with `besides`
    without E |d|^2, which is the same for all weights.

    Args:
        off: float32 [rows, columns], what weights are off by.
        seen: with its Hessian.
    """
    import torch

    assert seen.hessian is not None
    own = torch.from_numpy(np.ascontiguousarray(off, np.float32))
    bent = own @ torch.from_numpy(np.ascontiguousarray(seen.hessian, np.float32))
    if besides is not None:
        bent -= 2 * torch.from_numpy(besides)
    return float((bent.double() * own).sum())
