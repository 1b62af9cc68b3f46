"""Who watches long work."""

from typing import Protocol

GOES_ON = "the same command goes on where this one stopped"
KEPT = "what is complete is kept, and the same command makes the rest"
ANEW = "the same command begins this anew"
"""What the same command does after an interruption: of `KeyboardInterrupt`, where a step knows."""


class Watcher(Protocol):
    """Who wants to know how it goes."""

    def begin(self, total: int, done: int) -> None:
        """All of the work, and what an earlier run has done of it: weights of the whole output,
        or tokens times blocks."""

    def advance(self, amount: int, where: str) -> None:
        """So much more is done; `where` is a tensor or a block."""

    def note(self, message: str) -> None:
        """Something worth a line."""


class Silent:
    """A watcher that says nothing."""

    def begin(self, total: int, done: int) -> None:
        pass

    def advance(self, amount: int, where: str) -> None:
        pass

    def note(self, message: str) -> None:
        pass

    def close(self) -> None:
        pass
