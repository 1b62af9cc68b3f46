"""What the pipeline is given to do, and the slabs that it does it in."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from qconvert.containers.target import File
from qconvert.model.types import SLAB_WEIGHTS
from qconvert.plan.types import Plan, TensorPlan


@dataclass(frozen=True)
class Work:
    """A plan, and where its files are written.

    Attributes:
        files: of weights, where they are until all is done, in the order of the shards.
    """

    plan: Plan
    files: Sequence[File]

    @property
    def nbytes(self) -> int:
        return sum(file.nbytes for file in self.files)

    @cached_property
    def by_slot(self) -> dict[str, tuple[TensorPlan, int]]:
        """By a slot's name, the tensor that it belongs to, and which of its slots it is."""
        return {
            slot.name: (tensor, index)
            for tensor in self.plan.tensors
            for index, slot in enumerate(tensor.slots)
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

    tensor: TensorPlan
    start: int
    stop: int

    @property
    def is_last(self) -> bool:
        return self.stop == self.tensor.map.rows

    @property
    def weights(self) -> int:
        return (self.stop - self.start) * self.tensor.map.columns


def cut(tensor: TensorPlan) -> Iterator[Slab]:
    """Slabs at whole groups of reordered rows and whole steps, none over two matrices."""
    rows, columns = tensor.map.rows, tensor.map.columns
    group = max(len(tensor.map.order), tensor.coding.row_step, 1)
    step = rows if tensor.map.transpose else max(SLAB_WEIGHTS // (columns * group), 1) * group
    for first in range(0, rows, tensor.coding.matrix_rows):
        end = first + tensor.coding.matrix_rows
        for start in range(first, end, step):
            yield Slab(tensor, start, min(start + step, end))
