"""Quantized weights of a directory for MLX: everything that is stored for one."""

from collections.abc import Hashable
from dataclasses import dataclass

import numpy as np

from qconvert.algorithms import ALGORITHMS
from qconvert.containers.target import Slot
from qconvert.formats.quantize import quantize
from qconvert.formats.safetensors.scales import rounded
from qconvert.formats.safetensors.types import ScaleDtype
from qconvert.formats.types import Arrays, Format, Seen
from qconvert.model.weights import Weight
from qconvert.plan.mlx.types import Storage


@dataclass(frozen=True, eq=False)
class MlxWeight:
    """A weight, of experts the stack of a layer's: a `Coding`.

    Attributes:
        weight: under mlx-lm's name, [out, in] or [experts, out, in].
        dtype: of the model, and of its scales.
        searched: look for better scales than MLX's own.
        importance: float32 [matrices or 1, columns], or None.
        means: of the inputs, likewise.
    """

    weight: Weight
    storage: Storage
    dtype: ScaleDtype
    searched: bool = False
    importance: np.ndarray | None = None
    means: np.ndarray | None = None

    row_step = 1
    holds_nan = False
    moved = False

    @property
    def format(self) -> Format:
        return self.storage.format(self.dtype, self.searched)

    @property
    def slots(self) -> tuple[Slot, ...]:
        stem, map_ = self.weight.name.removesuffix("weight"), self.weight.map
        return tuple(
            Slot(stem + part.suffix, (*map_.shape[:-1], part.shape[1]), part.dtype, part.nbytes)
            for part in self.format.parts((map_.rows, map_.columns))
        )

    @property
    def matrix_rows(self) -> int:
        return self.weight.map.shape[-2]

    @property
    def kernel(self) -> Hashable:
        return self.storage, self.dtype, self.searched, self.means is not None

    def prepare(self, rows: np.ndarray, start: int) -> np.ndarray:
        """MLX's own choice is made from weights of the model's dtype."""
        is_same = self.searched or self.weight.dtype == self.dtype
        return rows if is_same else rounded(rows, self.dtype)

    def make(self, rows: np.ndarray, start: int, peak: float) -> Arrays:
        """An array for each of the format's parts."""
        algorithm = ALGORITHMS["balance" if self.means is not None else "nearest"]
        weights = np.ascontiguousarray(rows, np.float32)
        return quantize(self.format, weights, self._seen(start), algorithm=algorithm)

    def read_back(self, rows: np.ndarray, start: int, peak: float) -> np.ndarray:
        return self.format.dequantize(self.make(rows, start, peak))

    def _seen(self, start: int) -> Seen | None:
        """What is known of the inputs of the matrix that these rows belong to."""
        if self.importance is None:
            return None
        matrix = min(start // self.matrix_rows, len(self.importance) - 1)
        return Seen(self.importance[matrix], None if self.means is None else self.means[matrix])
