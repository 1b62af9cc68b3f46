"""What happens to the values of a tensor between the two sides: steps, each plain data that knows
its inverse.

    stored rows -> steps (`Rows`) -> order, transpose, reshape -> steps (`TensorMap`) -> values

The way back has the inverse steps at its other end, so that none has to pass a transposition.
A step works on rows as they come, float32 [rows, columns], so that a slab costs what it holds.
"""

from dataclasses import dataclass
from typing import Literal, Protocol

import numpy as np

from qconvert.errors import UnsupportedError


class Step(Protocol):
    """One change of values; `inverse` undoes it."""

    def apply(self, rows: np.ndarray) -> np.ndarray: ...

    @property
    def inverse(self) -> "Step":
        """Raises UnsupportedError: there is none."""


@dataclass(frozen=True)
class Scale:
    """Every element times a factor."""

    factor: float

    def apply(self, rows: np.ndarray) -> np.ndarray:
        made: np.ndarray = rows * np.float32(self.factor)
        return made

    @property
    def inverse(self) -> Step:
        if not self.factor:
            raise UnsupportedError("what is multiplied by 0 cannot be written back")
        return Scale(1 / self.factor)


@dataclass(frozen=True)
class Columns:
    """Other order of columns: in each group of `len(order)`, column k comes from `order[k]`."""

    order: tuple[int, ...]

    def apply(self, rows: np.ndarray) -> np.ndarray:
        grouped = rows.reshape(len(rows), -1, len(self.order))
        made: np.ndarray = grouped[:, :, np.array(self.order)].reshape(rows.shape)
        return made

    @property
    def inverse(self) -> Step:
        return Columns(tuple(int(index) for index in np.argsort(self.order)))


@dataclass(frozen=True, eq=False)
class Chosen:
    """Some of the columns, int [chosen]."""

    columns: np.ndarray

    def apply(self, rows: np.ndarray) -> np.ndarray:
        made: np.ndarray = rows[:, self.columns]
        return made

    @property
    def inverse(self) -> Step:
        raise UnsupportedError("columns that were left out cannot be written back")


@dataclass(frozen=True)
class Some:
    """Each `stride`-th column from `start` to `stop`: those of the gate, say, where gate and up lie
    side by side or in turns.

    There is no inverse: the other columns are in another tensor.
    """

    start: int
    stop: int
    stride: int = 1

    def apply(self, rows: np.ndarray) -> np.ndarray:
        return rows[:, self.start : self.stop : self.stride]

    @property
    def inverse(self) -> Step:
        raise UnsupportedError("columns that are taken from others cannot be put back alone")


@dataclass(frozen=True)
class Function:
    """A function of each element.

    Attributes:
        name: "-exp(x)" (the decay of state-space layers, stored as a logarithm) or its inverse.
    """

    name: Literal["-exp(x)", "log(-x)"]

    def apply(self, rows: np.ndarray) -> np.ndarray:
        made: np.ndarray = -np.exp(rows) if self.name == "-exp(x)" else np.log(-rows)
        return made

    @property
    def inverse(self) -> Step:
        return Function("log(-x)" if self.name == "-exp(x)" else "-exp(x)")


def columns_of(steps: tuple[Step, ...]) -> tuple[int, ...]:
    """In which order columns come out of steps; empty where they stay as they are."""
    return next((step.order for step in steps if isinstance(step, Columns)), ())


def inverse(steps: tuple[Step, ...]) -> tuple[Step, ...]:
    """What undoes steps, in its order.

    Raises:
        UnsupportedError: one of them cannot be undone.
    """
    return tuple(step.inverse for step in reversed(steps))
