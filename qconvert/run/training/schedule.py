"""When what is learnt: which windows in which step, and at which rate.

    rate    rises over the first steps, and then falls along half a cosine to nothing
    order   every window once, drawn anew for each round through the sample

Source: I. Loshchilov, F. Hutter, "SGDR", arXiv 1608.03983.
"""

from dataclasses import dataclass
from math import ceil, cos, pi

import numpy as np

WARM_UP = 0.05
"""The share of the steps in which the rate rises."""

LOOKS = 8
"""How often what was learnt is measured on windows that were not shown."""


def make_schedule(tokens: int, batch: int, shown: int, window: int, seed: int) -> "Schedule":
    """The schedule for so many tokens.

    Args:
        tokens: to learn from, in all rounds together.
        batch: tokens of a step, at least one window.
        shown: windows to learn from.
        window: tokens of each.
    """
    windows = min(max(batch // window, 1), shown)
    return Schedule(shown, windows, max(tokens // (windows * window), 1), seed)


@dataclass(frozen=True)
class Schedule:
    """Of a training.

    Attributes:
        windows: that are shown.
        batch: of them in each step.
        steps: in all.
        seed: of the order.
    """

    windows: int
    batch: int
    steps: int
    seed: int = 0

    @property
    def warm_up(self) -> int:
        return max(ceil(WARM_UP * self.steps), 1)

    def rate(self, step: int) -> float:
        """Of a step, in parts of the highest."""
        if step < self.warm_up:
            return (step + 1) / (self.warm_up + 1)
        behind = (step - self.warm_up) / max(self.steps - self.warm_up, 1)
        return 0.5 * (1 + cos(pi * behind))

    def chosen(self, step: int) -> np.ndarray:
        """The numbers of a step's windows, int64 [batch]."""
        first = step * self.batch
        numbers = range(first, first + self.batch)
        return np.array([self._order(n // self.windows)[n % self.windows] for n in numbers])

    def looks(self, step: int) -> bool:
        """Whether to measure when so many steps are done."""
        every = ceil(self.steps / LOOKS)
        return step == self.steps or (step % every == 0 and self.steps - step >= every // 2)

    def _order(self, round_: int) -> np.ndarray:
        return np.random.default_rng((self.seed, round_)).permutation(self.windows)
