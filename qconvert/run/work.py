"""What the pipeline is given to do: tensors, the files that they go into, and who watches."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Protocol

import numpy as np

from qconvert.checkpoint import Checkpoint
from qconvert.containers.target import File, Target
from qconvert.model.types import SLAB_WEIGHTS, TensorMap


class Tensor(Protocol):
    """Rows of weights, and what is written for them: one tensor, or several made together.

    Attributes:
        map: where the rows come from.
        names: the tensors that it becomes. The first is written slab by slab; the others are
            small, and held until their place in the file has come.
        row_step: slabs begin at multiples of so many rows.
        matrix_rows: no slab reaches over a multiple of so many rows.
        holds_nan: NaN and infinity can be written as they are.
        moved: the stored bytes are written as they are.
        kernel: what `make` has to have compiled; equal for tensors that are made alike.
        peers: the tensors, itself among them, whose largest absolute value `make` wants.
    """

    @property
    def map(self) -> TensorMap: ...
    @property
    def names(self) -> tuple[str, ...]: ...
    @property
    def row_step(self) -> int: ...
    @property
    def matrix_rows(self) -> int: ...
    @property
    def holds_nan(self) -> bool: ...
    @property
    def moved(self) -> bool: ...
    @property
    def kernel(self) -> str: ...
    @property
    def peers(self) -> "Sequence[Tensor]": ...

    def prepare(self, rows: np.ndarray, start: int) -> np.ndarray:
        """Rows from `start` on, float32 [rows, columns], changed before they are quantized."""

    def make(self, rows: np.ndarray, start: int, peak: float) -> tuple[np.ndarray, ...]:
        """What is written for prepared rows, one C-ordered array for each name.

        The arrays of all slabs, one behind the other, are the tensor; what does not belong to
        rows comes with those at 0, and is empty elsewhere. `peak` is 0 without peers.
        """


@dataclass(frozen=True)
class Output:
    """What a plan comes to: tensors, and the target that they go into.

    Attributes:
        checkpoint: where the rows come from.
        tensors: every tensor of the target's files, in any order.
        allow_nan: go on where weights are NaN or infinite.
    """

    checkpoint: Checkpoint
    tensors: Sequence[Tensor]
    target: Target
    allow_nan: bool = False


@dataclass(frozen=True)
class Work:
    """What to make, and where it goes.

    Attributes:
        checkpoint: where the rows come from.
        tensors: every tensor of the files, in any order.
        files: their order is that of the shards.
        allow_nan: go on where weights are NaN or infinite.
    """

    checkpoint: Checkpoint
    tensors: Sequence[Tensor]
    files: Sequence[File]
    allow_nan: bool = False

    @property
    def nbytes(self) -> int:
        return sum(file.nbytes for file in self.files)

    @cached_property
    def by_name(self) -> dict[str, tuple[Tensor, int]]:
        """The tensor that a name in a file belongs to, and which of its names that is."""
        return {
            name: (tensor, index)
            for tensor in self.tensors
            for index, name in enumerate(tensor.names)
        }


@dataclass(frozen=True)
class Result:
    """What was written."""

    paths: tuple[Path, ...]
    nbytes: int
    seconds: float
    resumed: int


@dataclass(frozen=True)
class Slab:
    """Rows `start` to `stop` of a tensor."""

    tensor: Tensor
    start: int
    stop: int

    @property
    def is_last(self) -> bool:
        return self.stop == self.tensor.map.rows

    @property
    def weights(self) -> int:
        return (self.stop - self.start) * self.tensor.map.columns


def cut(tensor: Tensor) -> Iterator[Slab]:
    """Slabs at whole groups of reordered rows and whole steps, none over two matrices."""
    rows, columns = tensor.map.rows, tensor.map.columns
    group = max(len(tensor.map.order), tensor.row_step, 1)
    step = rows if tensor.map.transpose else max(SLAB_WEIGHTS // (columns * group), 1) * group
    for first in range(0, rows, tensor.matrix_rows):
        end = first + tensor.matrix_rows
        for start in range(first, end, step):
            yield Slab(tensor, start, min(start + step, end))
