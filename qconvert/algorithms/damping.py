"""The factor of a damped matrix of second moments, for `qconvert.algorithms.feedback`.

Damping makes up for what a sample does not tell: every element of the diagonal grows by a share of
itself. A share of the diagonal's mean, as GPTQ has it, would be that of a few channels whose inputs
are thousands of times larger than the others', and drown these.
"""

from typing import Any

from qconvert.formats.types import Seen

SHARE = 0.02
"""For feedback."""

ENOUGH = 20
"""Tokens for a column; with fewer the share is larger in proportion."""

RETRIES = 10
"""So often the share is doubled where the matrix does not factor."""


def factored(seen: Seen, share: float = SHARE) -> Seen:
    """With the upper triangular U of inv(H) = U^T U; as it is where H does not factor.

    Columns that are always zero count as independent of the others.

    Args:
        share: by which each element of the diagonal grows at first.
    """
    import torch

    hessian = seen.hessian
    diagonal = hessian.diagonal().clone()
    live = diagonal > 0
    if seen.tokens:
        share *= max(1.0, ENOUGH * len(diagonal) / seen.tokens)
    if not live.any() or not torch.isfinite(hessian).all():
        return seen
    for _ in range(RETRIES):
        damped = torch.where(live, diagonal * (1 + share), diagonal[live].mean())
        factor = _inverse_factor(hessian, damped.sqrt())
        if factor is not None:
            return seen._replace(factor=factor)
        share *= 2
    return seen


def _inverse_factor(hessian: Any, size: Any) -> Any:
    """U of a matrix whose diagonal becomes the square of `size`; None where it does not factor.

    By that the matrix is divided first: what float32 rounds off it is then small beside the
    damping of each channel, however large others are.
    """
    import torch

    # Backwards, so that H = R R^T with an upper R, whose inverse is U.
    unit = hessian.flip(0, 1)
    unit /= size.flip(0)
    unit /= size.flip(0)[:, None]
    unit.diagonal().fill_(1)
    lower, failed = torch.linalg.cholesky_ex(unit)
    if failed:
        return None
    upper = lower.flip(0, 1)
    del unit, lower  # wide layers have large ones
    factor = torch.diag(1 / size)
    return torch.linalg.solve_triangular(upper, factor, upper=True, out=factor)
