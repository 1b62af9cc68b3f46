"""How strongly to smooth an input: by the output of the layers that it goes into.

The error of a candidate is that of int8 products with rounded inputs and rounded weights, against
the products before rounding. It is taken relative to the energy of each token's output, and
averaged over tokens and weights: squared errors alone would be those of a few massive tokens.

Codes are multiplied as integers, without rounding, so that the same sample gives the same choice.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from qconvert.algorithms.activation_ranges import Bounds
from qconvert.formats.safetensors.types import ActivationFormat

TINY = 1e-30
EXACT = 1024
"""Columns up to which float32 sums products of int8 without rounding."""


@dataclass(frozen=True)
class Trial:
    """An input and what it is multiplied with; torch tensors, on one device.

    Attributes:
        x: float32 [tokens, columns].
        weights: float32 [rows, columns] each.
    """

    x: Any
    weights: Sequence[Any]


def output_errors(
    trial: Trial,
    candidates: Sequence[np.ndarray],
    form: ActivationFormat,
    choose: Callable[[Any], Bounds | None] | None = None,
) -> list[float]:
    """The error of each candidate.

    Args:
        candidates: factors, float32 [columns] each.
        form: of the input.
        choose: of static inputs, the range of an input [tokens, columns]; one for each token where
            it gives None.
    """
    import torch

    expected = [trial.x @ weight.T for weight in trial.weights]
    energies = [torch.sum(y * y, dim=1) + TINY for y in expected]
    errors = []
    for candidate in candidates:
        smooth = torch.from_numpy(candidate).to(trial.x.device)
        codes, scale, zero = input_codes(trial.x / smooth, form, choose)
        error = 0.0
        for weight, y, energy in zip(trial.weights, expected, energies, strict=True):
            rounded = product(codes, scale, zero, *weight_codes(weight * smooth))
            share = torch.sum((rounded - y) ** 2, dim=1) / energy
            error += float(torch.clamp(share, max=1.0).mean(dtype=torch.float64))
        errors.append(error / len(trial.weights))
    return errors


def input_codes(
    x: Any, form: ActivationFormat, choose: Callable[[Any], Bounds | None] | None
) -> tuple[Any, Any, Any]:
    """int8 codes [tokens, columns], and a scale and a zero point for all or [tokens, 1]."""
    import torch

    bounds = choose(x) if choose is not None else None
    if bounds is not None:
        scale, zero = torch.tensor(bounds.scale), torch.tensor(float(bounds.zero_point))
    elif form.symmetric:
        scale = _nonzero(x.abs().amax(dim=1, keepdim=True) / 127.5)
        zero = torch.zeros_like(scale)
    else:
        low = x.amin(dim=1, keepdim=True).clamp(max=0)
        high = x.amax(dim=1, keepdim=True).clamp(min=0)
        scale = _nonzero((high - low) / 255)
        zero = torch.clamp(torch.round(-128 - low / scale), -128, 127)
    codes = torch.clamp(torch.round(x / scale.to(x.device)) + zero.to(x.device), -128, 127)
    return codes.to(torch.int8), scale.to(x.device), zero.to(x.device)


def weight_codes(weight: Any) -> tuple[Any, Any]:
    """int8 codes [rows, columns] and a scale of each row, [rows]."""
    import torch

    scale = _nonzero(weight.abs().amax(dim=1, keepdim=True) / 127.5)
    codes = torch.clamp(torch.round(weight / scale), -128, 127)
    return codes.to(torch.int8), scale[:, 0]


def product(codes: Any, scale: Any, zero: Any, weight: Any, weight_scale: Any) -> Any:
    """float32 [tokens, rows] of the values that codes stand for."""
    import torch

    if codes.device.type == "cpu" and len(codes):
        sums = torch._int_mm(codes, weight.T)
    elif codes.shape[1] <= EXACT:
        sums = codes.float() @ weight.float().T
    else:
        sums = codes.double() @ weight.double().T
    shift = zero * weight.sum(dim=1, dtype=torch.int32)
    return (sums - shift).float() * scale * weight_scale


def _nonzero(scale: Any) -> Any:
    import torch

    return torch.where(scale == 0, torch.ones_like(scale), scale)
