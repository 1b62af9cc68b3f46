"""A watcher that keeps what it is told, and can be Ctrl-C."""

from qconvert.machine.watcher import Silent


class Listening(Silent):
    """Args:
    steps: Ctrl-C behind so many.
    """

    def __init__(self, steps: int = 10**9) -> None:
        self.steps = steps
        self.notes: list[str] = []
        self.begun: list[tuple[int, int]] = []

    def begin(self, total: int, done: int) -> None:
        self.begun.append((total, done))

    def advance(self, amount: int, where: str) -> None:
        self.steps -= 1
        if not self.steps:
            raise KeyboardInterrupt

    def note(self, message: str) -> None:
        self.notes.append(message)
