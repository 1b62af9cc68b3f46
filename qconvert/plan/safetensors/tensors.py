"""Quantized weights of a directory: everything that is stored for one."""

from collections.abc import Hashable
from dataclasses import dataclass

import numpy as np

from qconvert.checkpoint.dtypes import PLAIN
from qconvert.containers.target import Slot
from qconvert.errors import PlanError
from qconvert.formats.quantize import quantize, slab_of
from qconvert.formats.safetensors.fp4 import global_scale
from qconvert.formats.safetensors.layouts import format_of
from qconvert.formats.safetensors.scales import rounded, stored
from qconvert.formats.safetensors.types import Estimator, ScaleDtype
from qconvert.formats.types import Arrays, Format, Part, Seen
from qconvert.model.weights import Weight
from qconvert.plan.blocks import Factors
from qconvert.plan.safetensors.schemes import Scheme


@dataclass(frozen=True, eq=False)
class StaticInput:
    """The stored range of one layer's input.

    Attributes:
        scale: None where only sizes are planned.
    """

    scale: float | None
    zero_point: int | None = None


@dataclass(frozen=True, eq=False)
class LocalInput:
    """The scale of one layer's input by which those of its groups are divided.

    Attributes:
        peak: the largest absolute value; None where only sizes are planned.
    """

    peak: float | None


@dataclass(frozen=True, eq=False)
class Quantized:
    """A weight and all that is stored for it: a `Coding`.

    Attributes:
        scale_dtype: of its scales.
        importance: float32 [columns], or None.
        inputs: what is stored of its input.
    """

    weight: Weight
    scheme: Scheme
    scale_dtype: ScaleDtype
    estimator: Estimator
    importance: np.ndarray | None = None
    factors: Factors | None = None
    inputs: StaticInput | LocalInput | None = None

    holds_nan = False
    moved = False

    @property
    def shape(self) -> tuple[int, int]:
        return self.weight.matrix_map.rows, self.weight.matrix_map.columns

    @property
    def format(self) -> Format:
        return format_of(self.scheme.weights, self.estimator, self.scale_dtype)

    @property
    def parts(self) -> tuple[Part, ...]:
        """What it becomes, in order."""
        made = self.format.parts(self.shape)
        if self.inputs is None:
            return made
        if isinstance(self.inputs, LocalInput):
            return (*made, Part("input_global_scale", (1,), "F32", 4, False))
        size = PLAIN[self.scale_dtype]
        made = (*made, Part("input_scale", (1,), self.scale_dtype, size, False))
        if self.inputs.zero_point is None:
            return made
        return (*made, Part("input_zero_point", (1,), "I8", 1, False))

    @property
    def slots(self) -> tuple[Slot, ...]:
        stem = self.weight.name.removesuffix("weight")
        return tuple(
            Slot(stem + part.suffix, self._stored_shape(part), part.dtype, part.nbytes)
            for part in self.parts
        )

    def _stored_shape(self, part: Part) -> tuple[int, ...]:
        return part.shape[::-1] if self._is_turned(part) else part.shape

    def _is_turned(self, part: Part) -> bool:
        """Serving engines turn what is called ".weight" in layers that are stored [in, out]."""
        return self.weight.conv1d and part.suffix == "weight"

    @property
    def row_step(self) -> int:
        if any(part.turned or self._is_turned(part) for part in self.parts):
            return self.matrix_rows
        return min(self.format.row_step, self.matrix_rows)

    @property
    def matrix_rows(self) -> int:
        return self.shape[0]

    @property
    def kernel(self) -> Hashable:
        weighted = self.importance is not None
        return self.scheme.weights, self.scale_dtype, self.estimator, weighted

    def prepare(self, rows: np.ndarray, start: int) -> np.ndarray:
        return rows if self.factors is None else self.factors.apply(rows, start)

    def make(self, rows: np.ndarray, start: int, peak: float) -> Arrays:
        """An array for each of `parts`."""
        codes, *others = self._quantized(rows, peak)
        if self._is_turned(self.parts[0]):
            codes = np.ascontiguousarray(codes.T)
        made = (codes, *others, *self._constants())
        return slab_of(made, self.parts, self.shape, start == 0)

    def read_back(self, rows: np.ndarray, start: int, peak: float) -> np.ndarray:
        return self.format.dequantize(self._quantized(rows, peak))

    def _quantized(self, rows: np.ndarray, peak: float) -> Arrays:
        seen = None if self.importance is None else Seen(self.importance)
        return quantize(self.format, np.ascontiguousarray(rows, np.float32), seen, peak)

    def _constants(self) -> Arrays:
        """What is stored of the input."""
        if self.inputs is None:
            return ()
        known = self.inputs.peak if isinstance(self.inputs, LocalInput) else self.inputs.scale
        if known is None:
            raise PlanError(f"{self.weight.name} has no range for its input yet")
        if isinstance(self.inputs, LocalInput):
            return (np.array([global_scale(known)], np.float32),)
        scale = np.array([known], np.float32)
        made = stored(rounded(scale, self.scale_dtype), self.scale_dtype)
        zero = self.inputs.zero_point
        return (made,) if zero is None else (made, np.array([zero], np.int8))
