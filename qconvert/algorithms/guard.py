"""Never keep what does not help on tokens that it was not made from.

What counts is the error of a layer's output, of the unseen inputs x with second moments H:

    E |(W' - W) x|^2 = trace((W' - W) H (W' - W)^T)

Where a layer's surroundings have drifted, it should give d besides (`qconvert.algorithms.drift`):

    E |(W' - W) x - d|^2 = trace((W' - W) H (W' - W)^T) - 2 trace((W' - W)^T E d x^T) + E |d|^2
"""

from typing import Any

import numpy as np

from qconvert.formats.types import Seen


def helps(made: np.ndarray, base: np.ndarray, unseen: Seen, besides: Any = None) -> bool:
    """Whether what an algorithm has made of a weight beats the base; False where that cannot be
    told.

    Args:
        made, base: float32 [rows, columns], what they are off by.
        unseen: inputs that the algorithm did not see.
        besides: E d x^T, torch float32 [rows, columns]; None for d = 0.
    """
    errors = [output_error(off, unseen, besides) for off in (made, base)]
    return errors[0] < errors[1]


def output_error(off: np.ndarray, seen: Seen, besides: Any = None) -> float:
    """The mean over tokens of the squared error of the outputs, summed over rows; with `besides`
    without E |d|^2, which is the same for all weights.

    Args:
        off: float32 [rows, columns], what weights are off by.
        seen: with its Hessian.
    """
    import torch

    own = torch.from_numpy(np.ascontiguousarray(off, np.float32)).to(seen.hessian.device)
    bent = own @ seen.hessian
    if besides is not None:
        bent -= 2 * besides
    return float((bent.double() * own).sum())
