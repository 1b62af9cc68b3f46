"""What a weight should become where its surroundings have drifted.

Earlier layers are quantized already, so a layer sees x where the original would have seen y, and
what it adds goes to a residual stream r that the original has as s. The weight that makes the best
of that, by least squares over the tokens of a sample, is

    W' = W + (alpha W C + beta R) inv(H + lambda)      H = E x x^T   C = E (y - x) x^T
                                                       R = E (s - r) x^T

alpha and beta are strengths from 0 to 1; with 1 the errors of a few massive channels may be chased
from block to block until nothing is left of the model, so that what comes out has to be guarded.
lambda is a share of each element of the diagonal.

Sources: Y. Arai et al., "Quantization error propagation", arXiv 2504.09629 (alpha); Y. Li et al.,
"GPTAQ", arXiv 2504.02692.
"""

from typing import NamedTuple

import numpy as np

from qconvert.calibration.moments import Drift
from qconvert.formats.types import Seen, Weights

SHARE = 0.1
"""lambda, as a share of the diagonal."""


class Strength(NamedTuple):
    """How much of the drift is made up for."""

    input: float
    stream: float


def retargeted(x: Weights, seen: Seen, drift: Drift, strength: Strength, factor: float) -> Weights:
    """The weight that a quantized model should have in the place of x, float32 [rows, columns].

    Args:
        factor: by what the layer's output is multiplied before it is added to the stream.
    """
    import torch

    wanted = strength.input * (torch.from_numpy(x) @ torch.from_numpy(drift.cross)).double()
    if drift.stream is not None:
        wanted += strength.stream / factor * torch.from_numpy(drift.stream).double()
    hessian = torch.from_numpy(np.asarray(seen.hessian, np.float64)).clone()
    diagonal = hessian.diagonal()
    diagonal += SHARE * diagonal
    diagonal[diagonal <= 0] = 1.0
    lower, failed = torch.linalg.cholesky_ex(hessian)
    if failed:
        return x
    change = torch.cholesky_solve(wanted.T.contiguous(), lower).T
    moved: np.ndarray = (torch.from_numpy(x) + change.float()).contiguous().numpy()
    return moved


def output_error(
    made: Weights, x: Weights, seen: Seen, drift: Drift | None, factor: float
) -> float:
    """The mean over tokens of the squared error of what a layer gives, or of the stream behind it,
    up to what is the same whatever it is made into.

    Args:
        made, x: what the weight has become, and what it was.
        seen, drift: of tokens that it was not made from.
    """
    made64, x64 = made.astype(np.float64), x.astype(np.float64)
    assert seen.hessian is not None
    wanted = x64 @ seen.hessian
    if drift is not None:
        wanted += x64 @ drift.cross
        if drift.stream is not None:
            wanted += drift.stream / factor
    return float(np.vdot(made64 @ seen.hessian - 2 * wanted, made64))
