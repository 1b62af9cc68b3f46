"""SmoothQuant: part of an input's outliers is moved into the weights that it is multiplied with.

G. Xiao et al., arXiv 2211.10438: channel j of the input is divided by

    s_j = max|X_j|^alpha / max|W_j|^(1 - alpha)

and column j of the weights multiplied by it. What made the input takes up the division, so that
the function stays as it is. With alpha 0 nothing is done.
"""

import numpy as np

from qconvert.formats.safetensors.scales import rounded

ALPHAS = tuple(step / 10 for step in range(10))
"""What a search tries; the first is none at all."""


def is_alpha(value: float) -> bool:
    """Whether it can be SmoothQuant's exponent."""
    return 0 <= value <= 1


def factors(inputs: np.ndarray, weights: np.ndarray, alpha: float) -> np.ndarray:
    """s, with 1 as its geometric mean, and 1 for channels that are always zero.

    Args:
        inputs: the largest absolute input of each channel, float32 [..., columns].
        weights: the largest absolute weight of each column, the same shape.
        alpha: from 0 to 1.

    Returns:
        float32 [..., columns].
    """
    if alpha == 0:
        return np.ones(inputs.shape, np.float32)
    live = (inputs > 0) & (weights > 0)
    log_inputs = np.log(np.where(live, inputs, 1.0).astype(np.float64))
    log_weights = np.log(np.where(live, weights, 1.0).astype(np.float64))
    logs = alpha * log_inputs - (1 - alpha) * log_weights
    middle = logs.sum(axis=-1, keepdims=True) / np.maximum(live.sum(axis=-1, keepdims=True), 1)
    smooth: np.ndarray = np.exp(np.where(live, logs - middle, 0.0)).astype(np.float32)
    return smooth


def storable(norm: np.ndarray, smooth: np.ndarray, dtype: str, add: float = 0.0) -> np.ndarray:
    """The factors nearest to `smooth` by which a norm can be divided without rounding.

    The columns of the weights are multiplied before they are quantized, so they can take any
    factor, and the norm's rounding costs nothing.

    Args:
        norm: what the norm multiplies with, float32 [columns].
        smooth: positive, float32 [columns].
        dtype: of the stored norm: "BF16", "F16" or "F32".
        add: what is stored lacks it: Gemma's norms are stored as weight - 1.

    Returns:
        Positive float32 [columns].
    """
    shift = np.float32(add)
    divided = rounded(norm / smooth - shift, dtype) + shift
    usable = (divided * norm > 0) & np.isfinite(norm / np.where(divided == 0, 1, divided))
    return np.where(usable, norm / np.where(usable, divided, 1), 1).astype(np.float32)
