"""The slabs of rows that tensors are made in."""

from collections.abc import Iterator
from dataclasses import dataclass

from qconvert.model.types import SLAB_WEIGHTS
from qconvert.plan.types import TensorPlan


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
    """Slabs at whole groups of reordered rows and whole steps, none over two matrices. An
    empty tensor is one slab."""
    rows, columns = tensor.map.rows, tensor.map.columns
    if not rows * columns:
        yield Slab(tensor, 0, rows)
        return
    group = max(len(tensor.map.order), tensor.coding.row_step, 1)
    step = max(SLAB_WEIGHTS // (columns * group), 1) * group
    if tensor.map.transpose:
        step = tensor.map.matrix_rows
    for first in range(0, rows, tensor.coding.matrix_rows):
        end = first + tensor.coding.matrix_rows
        for start in range(first, end, step):
            yield Slab(tensor, start, min(start + step, end))
