"""Tensors that become one array: rows in one of ggml's formats, or in a container's own numbers."""

from collections.abc import Hashable
from dataclasses import dataclass

import numpy as np

from qconvert.algorithms import ALGORITHMS
from qconvert.formats import FORMATS
from qconvert.formats.ggml.grids import exact_blocks, gives_back
from qconvert.formats.quantize import quantize
from qconvert.formats.types import Seen, block_sizes


@dataclass(frozen=True, eq=False)
class Factors:
    """What a weight is multiplied with before it is stored, in its own order of rows.

    Attributes:
        columns: float32 [columns].
        rows: float32 [rows].
        add: what is added before and taken off again: what is stored lacks it.
    """

    columns: np.ndarray | None = None
    rows: np.ndarray | None = None
    add: float = 0.0

    def apply(self, values: np.ndarray, start: int) -> np.ndarray:
        """float32 [rows, columns], the rows from `start` on."""
        add = np.float32(self.add)
        if add:
            values = values + add
        if self.columns is not None:
            values = values * self.columns
        if self.rows is not None:
            values = values * self.rows[start : start + len(values), None]
        return values - add if add else values


@dataclass(frozen=True, eq=False)
class Blocks:
    """A tensor in one format: a `Coding`.

    Attributes:
        name: of the tensor, for messages.
        format: a name in `FORMATS`; where rows are moved, any other dtype too.
        matrix_rows: where each matrix has its own importance, its rows; else all.
        moved: the stored bytes stay as they are.
        importance: float32 [matrices, columns], or None.
        means: of the inputs, float32 [matrices, columns], or None where they are not known.
        factors: what the rows are multiplied with.
        rounded_to: the dtype that the rows were rounded to, "F32", "F16" or "BF16": blocks that lie
            on the format's grid keep their weights to the last bit. Empty where that is not looked
            for.
        scales: how many float32 there are beside it, one for each matrix, all of them alike; 0
            where the format has none.
    """

    name: str
    format: str
    matrix_rows: int
    moved: bool = False
    importance: np.ndarray | None = None
    means: np.ndarray | None = None
    factors: Factors | None = None
    rounded_to: str = ""
    scales: int = 0

    row_step = 1

    @property
    def holds_nan(self) -> bool:
        return block_sizes(self.format)[0] == 1

    @property
    def kernel(self) -> Hashable:
        return self.format, self.means is not None

    def prepare(self, rows: np.ndarray, start: int) -> np.ndarray:
        return rows if self.factors is None else self.factors.apply(rows, start)

    def make(self, rows: np.ndarray, start: int, peak: float) -> tuple[np.ndarray, ...]:
        """uint8 [rows, row bytes], and where the format has one the scale of all of it."""
        made = self._made(rows, start, peak)
        if not self.scales:
            return made
        scales = np.repeat(made[1], self.scales) if start == 0 else made[1][:0]
        return made[0], scales

    def _made(self, rows: np.ndarray, start: int, peak: float) -> tuple[np.ndarray, ...]:
        seen, algorithm = self._seen(start), "balance" if self.means is not None else "nearest"
        weights = np.ascontiguousarray(rows)
        format_ = FORMATS[self.format]
        made = quantize(format_, weights, seen, peak or None, ALGORITHMS[algorithm])
        exact = exact_blocks(self.format, weights, self.rounded_to) if self._may_keep else None
        if exact is not None:
            made[0].reshape(exact.blocks.shape)[exact.mask] = exact.blocks[exact.mask]
        return made

    def keeps(self, rows: np.ndarray, made: tuple[np.ndarray, ...]) -> bool:
        """Whether what was made of rows gives them back, as their dtype has them."""
        if not self._may_keep or not len(rows):
            return False
        format_ = FORMATS[self.format]
        first = gives_back(format_.dequantize((made[0][:1],)), rows[:1], self.rounded_to)
        return first and gives_back(format_.dequantize(made), rows, self.rounded_to)

    @property
    def _may_keep(self) -> bool:
        """Whether these are still the rows that lay in the source."""
        return bool(self.rounded_to) and self.factors is None

    def read_back(self, rows: np.ndarray, start: int, peak: float) -> np.ndarray:
        return FORMATS[self.format].dequantize(self._made(rows, start, peak))

    def _seen(self, start: int) -> Seen | None:
        """What is known of the inputs of the matrix that these rows belong to."""
        if self.importance is None:
            return None
        matrix = start // self.matrix_rows
        return Seen(self.importance[matrix], None if self.means is None else self.means[matrix])
