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
        cross: C, torch float32 [columns, columns], on the device of `Seen.hessian`.
        stream: R, the same [rows, columns]; None where the layer adds to no stream.
    """

    cross: Any
    stream: Any = None


HALVED = 512
"""Rows of a symmetric product that are made at a time, up to their own columns."""


@dataclass
class Sums:
    """Over the tokens of one input, of one matrix; tensors on the inputs' device, and the moments
    transposed."""

    count: int = 0
    first: Any = 0
    second: Any = None
    cross: Any = None
    stream: Any = None


@dataclass(frozen=True)
class Moments:
    """An observer of a walk, and what it saw."""

    _sums: dict[tuple[str, int], Sums] = field(default_factory=dict)
    _inputs: dict[str, str] = field(default_factory=dict)

    def observe(
        self,
        weights: tuple[str, ...],
        x: Any,
        matrix: int,
        off: Any = None,
        behind: Any = None,
    ) -> None:
        """Add tokens. See `qconvert.forward.walk`.

        Products are of the inputs' own type, and their sums float32.

        Args:
            off: y - x, of the shape of x; None for nothing to compare with.
            behind: s - r, [tokens, rows]; None where the layer adds to no stream.
        """
        import torch

        self._inputs.update(dict.fromkeys(weights, weights[0]))
        sums = self._sums.setdefault((weights[0], matrix), Sums())
        sums.count += len(x)
        sums.first = sums.first + x.sum(dim=0, dtype=torch.float32).cpu().double()
        across = x.T.contiguous()
        sums.second = _add_half(sums.second, across, x)
        if off is not None:
            sums.cross = _add(sums.cross, across, off)
        if behind is not None:
            sums.stream = _add(sums.stream, across, behind)

    def of(self, weight: str, matrix: int = 0) -> Seen | None:
        """What a weight saw; None for no tokens. Experts that fewer tokens reached than they have
        columns have what all of their layer saw."""
        sums = self._found(weight, matrix)
        if sums is None or sums.count < len(sums.second):
            sums = self._all(weight)
        if sums is None:
            return None
        half = sums.second.tril()
        mean = _mean(sums.first, sums)
        hessian = _mean(half + half.tril(-1).T, sums)
        return Seen(_row(hessian.diagonal()), _row(mean), hessian, sums.count)

    def drift_of(self, weight: str, matrix: int = 0) -> Drift | None:
        """How far its surroundings have drifted; None where nothing is known of it."""
        sums = self._found(weight, matrix)
        if sums is None or sums.cross is None:
            return None
        stream = None if sums.stream is None else _mean(sums.stream.T, sums)
        return Drift(_mean(sums.cross.T, sums), stream)

    def _all(self, weight: str) -> Sums | None:
        """Of all matrices together."""
        first = self._inputs.get(weight, "")
        found = [sums for (name, _), sums in self._sums.items() if name == first and sums.count]
        if len(found) < 2:
            return found[0] if found else None
        return Sums(
            sum(sums.count for sums in found),
            sum(sums.first for sums in found),
            sum(sums.second for sums in found),
        )

    def _found(self, weight: str, matrix: int) -> Sums | None:
        sums = self._sums.get((self._inputs.get(weight, ""), matrix))
        return sums if sums is not None and sums.count else None


def _add(total: Any, across: Any, right: Any) -> Any:
    """The total with a product, float32."""
    product = across @ right
    return product.float() if total is None else total.add_(product)


def _add_half(total: Any, across: Any, x: Any) -> Any:
    """The same of a symmetric product, of which the lower half is made."""
    import torch

    columns = len(across)
    if total is None:
        total = torch.zeros(columns, columns, device=x.device)
    for start in range(0, columns, HALVED):
        stop = min(start + HALVED, columns)
        total[start:stop, :stop] += across[start:stop] @ x[:, :stop]
    return total


def _mean(total: Any, sums: Sums) -> Any:
    """Where linear algebra is done: on the inputs' device, if that has float64."""
    mean = (total / sums.count).float().contiguous()
    return mean.cpu() if mean.device.type == "mps" else mean


def _row(values: Any) -> np.ndarray:
    return np.ascontiguousarray(values.cpu().numpy())
