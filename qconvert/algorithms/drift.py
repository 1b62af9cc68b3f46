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

from typing import Any, NamedTuple

import numpy as np

from qconvert.calibration.moments import Drift
from qconvert.formats.types import Seen, Weights


class Strength(NamedTuple):
    """How much of the drift is made up for."""

    input: float
    stream: float


class Corrections(NamedTuple):
    """What is added to a weight at full strength, torch float32 [rows, columns].

    Attributes:
        input: for the drift of the layer's input.
        stream: for that of the stream; None where the layer adds to none.
    """

    input: Any
    stream: Any


def asked(x: Weights, drift: Drift, factor: float) -> tuple[Any, Any]:
    """What a layer should give besides, as its second moments with the inputs: W C for the drift of
    the input, and R / factor for that of the stream or None; torch float32 [rows, columns], on the
    device of the drift.

    Args:
        factor: by what the layer's output is multiplied before it is added to the stream.
    """
    import torch

    of_input = torch.from_numpy(x).to(drift.cross.device) @ drift.cross
    return of_input, None if drift.stream is None else drift.stream / factor


def besides(x: Weights, drift: Drift, factor: float) -> Any:
    """Both together."""
    of_input, of_stream = asked(x, drift, factor)
    return of_input if of_stream is None else of_input + of_stream


def corrections(x: Weights, seen: Seen, drift: Drift, factor: float) -> Corrections:
    """What makes up for the drift of the tokens that were seen.

    Args:
        seen: with its factor.
        factor: as `asked` has it.
    """
    upper = seen.factor
    parts = (part if part is None else part @ upper.T @ upper for part in asked(x, drift, factor))
    return Corrections(*parts)


def best_strength(made: Corrections, unseen: Seen, wanted: Any) -> Strength:
    """The strengths that are best for tokens that the corrections were not made from, from 0 to 1.

    The error of what the layer gives is a quadratic form of both.

    Args:
        wanted: `besides` of the same tokens.
    """
    import torch

    parts = [part for part in made if part is not None]
    bent = [part @ unseen.hessian for part in parts]
    curve = np.array([[float((a * b).sum(dtype=torch.float64)) for a in parts] for b in bent])
    slope = np.array([float((a * wanted).sum(dtype=torch.float64)) for a in parts])
    best = _least(curve, slope)
    return Strength(best[0], best[1] if len(best) > 1 else 0.0)


def _least(curve: np.ndarray, slope: np.ndarray) -> list[float]:
    """The least of s^T curve s - 2 slope^T s for s within 0 and 1."""
    tried = np.linspace(0, 1, 21)
    points = np.stack(np.meshgrid(*[tried] * len(slope), indexing="ij"), -1).reshape(-1, len(slope))
    values = np.einsum("pi,ij,pj->p", points, curve, points) - 2 * points @ slope
    return [float(each) for each in points[np.argmin(values)]]


def retargeted(x: Weights, made: Corrections, strength: Strength) -> Weights:
    """The weight that a quantized model should have in the place of x, float32 [rows, columns]."""
    import torch

    moved = torch.from_numpy(x).to(made.input.device) + strength.input * made.input
    if made.stream is not None:
        moved += strength.stream * made.stream
    found: np.ndarray = moved.contiguous().cpu().numpy()
    return found
