"""What a weight should become where its surroundings have drifted.

Earlier layers are quantized already, so a layer sees x where the original would have seen y, and
what it gives should be W x + d:

    d = W (y - x)
    d = W (y - x) + gamma (s - r) / factor

the second of a layer that writes into the residual stream, in front of which the original has s and
the quantized model r; factor is what the layer's output is multiplied with before it is added.

The weight that makes the best of that, by least squares over the tokens of a sample, is

    W' = W + alpha B inv(H + lambda)      H = E x x^T      B = E d x^T

alpha is a strength from 0 to 1; with 1 the errors of a few massive channels may be chased from
block to block until nothing is left of the model, so that what comes out has to be guarded. lambda
is a share of each element of the diagonal.

Sources: Y. Arai et al., "Quantization error propagation", arXiv 2504.09629 (alpha); Y. Li et al.,
"GPTAQ", arXiv 2504.02692.
"""

from typing import Any

import numpy as np

from qconvert.calibration.moments import Drift
from qconvert.formats.types import Seen, Weights


def besides(x: Weights, drift: Drift) -> Any:
    """B of a weight x, torch float32 [rows, columns], on the device of the drift."""
    import torch

    if drift.output is not None:
        return drift.output
    return torch.from_numpy(x).to(drift.input.device) @ drift.input


def correction(x: Weights, seen: Seen, drift: Drift) -> Any:
    """What is added to a weight at full strength, torch float32 [rows, columns].

    Args:
        seen: with its factor.
        drift: of the same tokens.
    """
    return besides(x, drift) @ seen.factor.T @ seen.factor


def best_strength(made: Any, unseen: Seen, wanted: Any) -> float:
    """The strength that is best for tokens that the correction was not made from: the error of
    what the layer gives is a parabola.

    Args:
        wanted: `besides` of the same tokens.
    """
    import torch

    curve = float((made @ unseen.hessian * made).sum(dtype=torch.float64))
    slope = float((made * wanted).sum(dtype=torch.float64))
    return min(max(slope / curve, 0.0), 1.0) if curve > 0 else 0.0


def retargeted(x: Weights, made: Any, strength: float) -> Weights:
    """The weight that a quantized model should have in the place of x, float32 [rows, columns]."""
    import torch

    moved = torch.from_numpy(x).to(made.device) + strength * made
    found: np.ndarray = moved.contiguous().cpu().numpy()
    return found
