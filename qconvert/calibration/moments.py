"""Second moments of layers' inputs while a model runs: what algorithms ask for that weigh a
weight's errors against each other. They are never filed; the calibration's tokens are, and these
can be made again.

    H = E x x^T           [columns, columns], of the inputs of a model that is quantized so far
    C = E (y - x) x^T     [columns, columns], y being the original's input for the same token
    R = E (s - r) x^T     [rows, columns], with the residual stream that the layer adds to: s the
                          original's, r the quantized model's
"""

from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np

from qconvert.formats.types import Seen


class Drift(NamedTuple):
    """How far a layer's surroundings have drifted from the original's.

    Attributes:
        cross: C, float32 [columns, columns].
        stream: R, float32 [rows, columns]; None where the layer adds to no stream.
    """

    cross: np.ndarray
    stream: np.ndarray | None = None


@dataclass
class Sums:
    """Over the tokens of one input, of one matrix; tensors on the inputs' device."""

    count: int = 0
    first: Any = 0
    second: Any = 0
    cross: Any = None
    stream: Any = None


@dataclass(frozen=True)
class Moments:
    """An observer of a walk, and what it saw."""

    _sums: dict[tuple[str, int], Sums] = field(default_factory=dict)
    _inputs: dict[str, str] = field(default_factory=dict)

    def observe(
        self, weights: tuple[str, ...], x: Any, matrix: int, off: Any = None, behind: Any = None
    ) -> None:
        """Add tokens. See `qconvert.forward.walk`.

        Products are float32, their sums float64: what is left of the order that a library adds
        in lies below what counts.

        Args:
            off: y - x, of the shape of x; None for nothing to compare with.
            behind: s - r, [tokens, rows]; None where the layer adds to no stream.
        """
        import torch

        self._inputs.update(dict.fromkeys(weights, weights[0]))
        sums = self._sums.setdefault((weights[0], matrix), Sums())
        x = x.float()
        sums.count += len(x)
        sums.first = sums.first + x.sum(dim=0, dtype=torch.float64)
        sums.second = _added(sums.second, x, x)
        if off is not None:
            sums.cross = _added(sums.cross, off.float(), x)
        if behind is not None:
            sums.stream = _added(sums.stream, behind.float(), x)

    def of(self, weight: str, matrix: int = 0) -> Seen | None:
        """What a weight saw; None for no tokens."""
        sums = self._found(weight, matrix)
        if sums is None:
            return None
        mean, hessian = (_mean(total, sums) for total in (sums.first, sums.second))
        return Seen(np.ascontiguousarray(hessian.diagonal()), mean, hessian)

    def drift_of(self, weight: str, matrix: int = 0) -> Drift | None:
        """How far its surroundings have drifted; None where nothing is known of it."""
        sums = self._found(weight, matrix)
        if sums is None or sums.cross is None:
            return None
        return Drift(
            _mean(sums.cross, sums), None if sums.stream is None else _mean(sums.stream, sums)
        )

    def _found(self, weight: str, matrix: int) -> Sums | None:
        sums = self._sums.get((self._inputs.get(weight, ""), matrix))
        return sums if sums is not None and sums.count else None


def _added(total: Any, left: Any, right: Any) -> Any:
    """The total, float64, with the sum over tokens of left right^T."""
    product = (left.T @ right).double()
    return product if isinstance(total, int) or total is None else total.add_(product)


def _mean(total: Any, sums: Sums) -> np.ndarray:
    mean: np.ndarray = (total / sums.count).float().cpu().numpy()
    return mean
