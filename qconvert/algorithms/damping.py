"""The factor of a damped matrix of second moments, for `qconvert.algorithms.feedback`.

Damping makes up for what a sample does not tell: every element of the diagonal grows by a share of
itself. A share of the diagonal's mean, as GPTQ has it, would be that of a few channels whose inputs
are thousands of times larger than the others', and drown these.
"""

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

    assert seen.hessian is not None
    hessian = seen.hessian.double()
    diagonal = hessian.diagonal().clone()
    live = diagonal > 0
    if seen.tokens:
        share *= max(1.0, ENOUGH * len(diagonal) / seen.tokens)
    if not live.any() or not torch.isfinite(hessian).all():
        return seen
    for _ in range(RETRIES):
        damped = hessian.clone()
        damped.diagonal().copy_(torch.where(live, diagonal * (1 + share), diagonal[live].mean()))
        # Backwards, so that H = R R^T with an upper R, whose inverse is U.
        lower, failed = torch.linalg.cholesky_ex(damped.flip(0, 1))
        if not failed:
            upper = lower.flip(0, 1)
            eye = torch.eye(len(upper), dtype=upper.dtype, device=upper.device)
            factor = torch.linalg.solve_triangular(upper, eye, upper=True)
            return seen._replace(factor=factor.float())
        share *= 2
    return seen
