"""First and second moments of layers' inputs while a model runs: what algorithms ask for that
weigh a weight's errors against each other. They are never filed; the calibration's tokens are, and
these can be made again.

    H = E x x^T        [columns, columns]
"""

from dataclasses import dataclass, field
from typing import Any

import numpy as np

from qconvert.formats.types import Seen


@dataclass
class Sums:
    """Over the tokens of one input, of one matrix; tensors on the inputs' device."""

    count: int = 0
    first: Any = 0
    second: Any = 0


@dataclass(frozen=True)
class Moments:
    """An observer of a walk, and what it saw."""

    _sums: dict[tuple[str, int], Sums] = field(default_factory=dict)
    _inputs: dict[str, str] = field(default_factory=dict)

    def observe(self, weights: tuple[str, ...], x: Any, matrix: int) -> None:
        """Add tokens. See `qconvert.forward.walk`.

        On the CPU in float64: what is left of the order that a library adds in, which may depend
        on its threads, lies far below the float32 that come of it.
        """
        import torch

        self._inputs.update(dict.fromkeys(weights, weights[0]))
        sums = self._sums.setdefault((weights[0], matrix), Sums())
        x = x.to(torch.float64 if x.device.type == "cpu" else torch.float32)
        sums.count += len(x)
        sums.first = sums.first + x.sum(dim=0)
        sums.second = sums.second + x.T @ x

    def of(self, weight: str, matrix: int = 0) -> Seen | None:
        """What a weight saw; None for no tokens."""
        sums = self._sums.get((self._inputs.get(weight, ""), matrix))
        if sums is None or not sums.count:
            return None
        mean, hessian = (
            (total / sums.count).float().cpu().numpy() for total in (sums.first, sums.second)
        )
        return Seen(np.ascontiguousarray(hessian.diagonal()), mean, hessian)
