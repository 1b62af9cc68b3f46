"""Second moments of layers' inputs while a model runs: what algorithms ask for that weigh a
weight's errors against each other. They are never filed; the calibration's tokens are, and these
can be made again.

    H = E x x^T           [columns, columns], of the inputs of a model that is quantized so far
    E (y - x) x^T         [columns, columns], y being the original's input for the same token
    E d x^T               [rows, columns], d being what the layer should give besides
"""

from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np

from qconvert.formats.types import Seen


class Drift(NamedTuple):
    """How far a layer's surroundings have drifted from the original's: one of these, torch float32
    on the device of `Seen.hessian`.

    Attributes:
        input: E (y - x) x^T.
        output: E d x^T, of layers that add to the residual stream.
    """

    input: Any = None
    output: Any = None


HALVED = 256
"""Rows of a symmetric product that are made at a time, up to their own columns."""


@dataclass
class Sums:
    """Over the tokens of one input, of one matrix, and then means; tensors on the inputs' device.

    Attributes:
        second: of which the lower half counts.
        input, output: of `Drift`, transposed.
    """

    count: int = 0
    first: Any = 0
    second: Any = None
    input: Any = None
    output: Any = None
    are_means: bool = False


@dataclass(frozen=True)
class Moments:
    """An observer of a walk, and what it saw. When it has been asked, it can observe no more."""

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
            off: y - x, of the shape of x, or None.
            behind: d, [tokens, rows], or None.
        """
        import torch

        self._inputs.update(dict.fromkeys(weights, weights[0]))
        sums = self._sums.setdefault((weights[0], matrix), Sums())
        sums.count += len(x)
        sums.first = sums.first + x.sum(dim=0, dtype=torch.float32).cpu().double()
        across = x.T.contiguous()
        sums.second = _add_half(sums.second, across, x)
        if off is not None:
            sums.input = _add(sums.input, across, off)
        if behind is not None:
            sums.output = _add(sums.output, across, behind)

    def of(self, weight: str, matrix: int = 0) -> Seen | None:
        """What a weight saw; None for no tokens. Experts that fewer tokens reached than they have
        columns have what all of their layer saw."""
        sums = self._found(weight, matrix)
        if sums is None or sums.count < len(sums.second):
            sums = self._all(weight)
        if sums is None:
            return None
        hessian = _there(sums.second)
        return Seen(_row(hessian.diagonal()), _row(sums.first), hessian, sums.count)

    def drift_of(self, weight: str, matrix: int = 0) -> Drift | None:
        """How far its surroundings have drifted; None where nothing is known of it."""
        sums = self._found(weight, matrix)
        if sums is None or (sums.input is None and sums.output is None):
            return None
        return Drift(*(one if one is None else _there(one.T) for one in (sums.input, sums.output)))

    def _all(self, weight: str) -> Sums | None:
        """Of all matrices together."""
        first = self._inputs.get(weight, "")
        matrices = [matrix for name, matrix in self._sums if name == first]
        found = [sums for sums in (self._found(first, matrix) for matrix in matrices) if sums]
        if len(found) < 2:
            return found[0] if found else None
        count = sum(sums.count for sums in found)
        return Sums(
            count,
            sum(sums.first * (sums.count / count) for sums in found),
            sum(sums.second * (sums.count / count) for sums in found),
        )

    def _found(self, weight: str, matrix: int) -> Sums | None:
        """As means; None without tokens."""
        sums = self._sums.get((self._inputs.get(weight, ""), matrix))
        if sums is None or not sums.count:
            return None
        if not sums.are_means:
            _average(sums)
        return sums


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


def _average(sums: Sums) -> None:
    """Make means of sums, in their place: those of wide layers are large."""
    sums.first = sums.first / sums.count
    for total in (sums.second, sums.input, sums.output):
        if total is not None:
            total /= sums.count
    second = sums.second
    for start in range(0, len(second), HALVED):
        stop = min(start + HALVED, len(second))
        second[start:stop, stop:] = second[stop:, start:stop].T
        own = second[start:stop, start:stop].tril()
        second[start:stop, start:stop] = own + own.tril(-1).T
    sums.are_means = True


def _there(values: Any) -> Any:
    """Where linear algebra is done: on the inputs' device, if that has all of it."""
    return (values.cpu() if values.device.type == "mps" else values).contiguous()


def _row(values: Any) -> np.ndarray:
    return np.ascontiguousarray(values.float().cpu().numpy())
