"""Somebody who kills workers of a cluster at random moments, but not too many."""

import os
import random
import signal
from typing import Any

from qconvert.machine.watcher import Silent


class Killing(Silent):
    """A watcher; each advance may be a worker's last moment.

    Args:
        cluster: whose workers, which are processes of this machine.
        one_in: of so many advances one is.
        most: workers that are killed.
    """

    def __init__(self, cluster: Any, seed: int, one_in: int, most: int = 3) -> None:
        self._cluster = cluster
        self._draw = random.Random(seed)
        self._one_in, self._most = one_in, most
        self.killed: list[int] = []

    def advance(self, amount: int, where: str) -> None:
        if len(self.killed) < self._most and self._draw.randrange(self._one_in) == 0:
            begun = [hand.process for hand in self._cluster.hands if hand.process]
            if begun:
                self.killed.append(self._draw.choice(begun))
                os.kill(self.killed[-1], signal.SIGKILL)
