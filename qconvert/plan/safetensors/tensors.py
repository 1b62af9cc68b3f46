"""The tensors of a directory, as the pipeline makes them."""

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from qconvert.checkpoint.dtypes import PLAIN
from qconvert.containers.safetensors import Slot
from qconvert.errors import PlanError
from qconvert.formats import FORMATS
from qconvert.formats.floats import check_f16
from qconvert.formats.safetensors import encoding
from qconvert.formats.safetensors.scales import rounded, stored
from qconvert.formats.safetensors.types import Estimator, Part, ScaleDtype
from qconvert.model.source import Weight
from qconvert.model.types import TensorMap
from qconvert.plan.safetensors.schemes import Scheme

FLOATS = ("F32", "F16", "BF16")


@dataclass(frozen=True, eq=False)
class Factors:
    """What a weight is multiplied with before it is stored, in its own order of rows.

    Attributes:
        columns: float32 [columns].
        rows: float32 [rows].
    """

    columns: np.ndarray | None = None
    rows: np.ndarray | None = None

    def apply(self, values: np.ndarray, start: int) -> np.ndarray:
        """float32 [rows, columns], the rows from `start` on."""
        if self.columns is not None:
            values = values * self.columns
        if self.rows is not None:
            values = values * self.rows[start : start + len(values), None]
        return values


@dataclass(frozen=True, eq=False)
class KeptTensor:
    """A tensor that is not quantized.

    Attributes:
        dtype: safetensors' name of what is written.
        moved: the stored bytes are written as they are.
        factors: what it is multiplied with, once `add` is added; it is taken off again.
    """

    map: TensorMap
    dtype: str
    moved: bool = False
    add: float = 0.0
    factors: Factors | None = None

    row_step = 1
    holds_nan = True
    peers: tuple["QuantizedTensor", ...] = ()

    @property
    def names(self) -> tuple[str, ...]:
        return (self.map.name,)

    @property
    def matrix_rows(self) -> int:
        return max(self.map.rows, 1)

    @property
    def kernel(self) -> str:
        return f"kept {self.dtype} {self.moved}"

    @property
    def slots(self) -> tuple[Slot, ...]:
        nbytes = self.map.elements * PLAIN[self.dtype]
        return (Slot(self.map.name, self.map.shape, self.dtype, nbytes),)

    def prepare(self, rows: np.ndarray, start: int) -> np.ndarray:
        if self.factors is None:
            return rows
        add = np.float32(self.add)
        made: np.ndarray = self.factors.apply(rows + add, start) - add
        return made

    def make(self, rows: np.ndarray, start: int, peak: float) -> tuple[np.ndarray, ...]:
        """uint8 [rows, row bytes].

        Raises:
            WeightError: a weight is too large for F16.
        """
        if self.moved:
            return (np.empty(0, np.uint8),)
        if self.dtype == "F16":
            check_f16(self.map.name, rows)
        return (FORMATS[self.dtype].quantize(np.ascontiguousarray(rows), None),)


@dataclass(frozen=True, eq=False)
class StaticInput:
    """The stored range of one layer's input.

    Attributes:
        scale: None where only sizes are planned.
    """

    scale: float | None
    zero_point: int | None = None


@dataclass(frozen=True, eq=False)
class QuantizedTensor:
    """A weight and all that is stored for it.

    Attributes:
        scale_dtype: of its scales.
        importance: float32 [columns], or None.
        inputs: the range of its input, where one is stored.
        peers: those whose largest weight it shares; empty if it does not ask for one.
    """

    weight: Weight
    scheme: Scheme
    scale_dtype: ScaleDtype
    estimator: Estimator
    importance: np.ndarray | None = None
    factors: Factors | None = None
    inputs: StaticInput | None = None
    peers: Sequence["QuantizedTensor"] = field(default=())

    holds_nan = False
    moved = False

    @property
    def map(self) -> TensorMap:
        return self.weight.matrix_map

    @property
    def shape(self) -> tuple[int, int]:
        return self.map.rows, self.map.columns

    @property
    def parts(self) -> tuple[Part, ...]:
        """What it becomes, in order."""
        made = encoding.parts(self.scheme.weights, self.shape, self.scale_dtype)
        if self.inputs is None:
            return made
        size = PLAIN[self.scale_dtype]
        made = (*made, Part("input_scale", (1,), self.scale_dtype, size, False))
        if self.inputs.zero_point is None:
            return made
        return (*made, Part("input_zero_point", (1,), "I8", 1, False))

    @property
    def names(self) -> tuple[str, ...]:
        stem = self.weight.name.removesuffix("weight")
        return tuple(stem + part.suffix for part in self.parts)

    @property
    def slots(self) -> tuple[Slot, ...]:
        return tuple(
            Slot(name, self._stored_shape(part), part.dtype, part.nbytes)
            for name, part in zip(self.names, self.parts, strict=True)
        )

    def _stored_shape(self, part: Part) -> tuple[int, ...]:
        return part.shape[::-1] if self._is_turned(part) else part.shape

    def _is_turned(self, part: Part) -> bool:
        """Serving engines turn what is called ".weight" in layers that are stored [in, out]."""
        return self.weight.conv1d and part.suffix == "weight"

    @property
    def row_step(self) -> int:
        if any(self._is_turned(part) for part in self.parts):
            return self.map.rows
        return encoding.row_step(self.scheme.weights)

    @property
    def matrix_rows(self) -> int:
        return self.map.rows

    @property
    def kernel(self) -> str:
        weighted = self.importance is not None
        return f"{self.scheme.weights} {self.scale_dtype} {self.estimator} {weighted}"

    def prepare(self, rows: np.ndarray, start: int) -> np.ndarray:
        return rows if self.factors is None else self.factors.apply(rows, start)

    def make(self, rows: np.ndarray, start: int, peak: float) -> tuple[np.ndarray, ...]:
        """An array for each of `parts`."""
        arrays = encoding.quantize(
            self.scheme.weights,
            np.ascontiguousarray(rows, np.float32),
            self.importance,
            self.estimator,
            peak if self.peers else None,
            self.scale_dtype,
            self.shape,
            start == 0,
        )
        if self._is_turned(self.parts[0]):
            arrays = (np.ascontiguousarray(arrays[0].T), *arrays[1:])
        return (*arrays, *self._constants(start == 0))

    def _constants(self, first: bool) -> tuple[np.ndarray, ...]:
        if self.inputs is None:
            return ()
        if self.inputs.scale is None:
            raise PlanError(f"{self.weight.name} has no range for its input yet")
        scale = np.array([self.inputs.scale], np.float32)
        made = [stored(rounded(scale, self.scale_dtype), self.scale_dtype)]
        if self.inputs.zero_point is not None:
            made.append(np.array([self.inputs.zero_point], np.int8))
        return tuple(made if first else [array[:0] for array in made])
