"""Ctrl-C in the middle of the work."""

from qconvert.machine.watcher import Silent


class Interrupting(Silent):
    """Ctrl-C after so many slabs."""

    def __init__(self, count: int) -> None:
        self.count = count

    def advance(self, weights: int, tensor: str) -> None:
        self.count -= 1
        if self.count == 0:
            raise KeyboardInterrupt
