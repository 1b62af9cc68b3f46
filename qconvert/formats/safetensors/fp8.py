"""Weights as float8 e4m3fn: x' = value * scale, the layout "float-quantized".

One scale for a tensor, a row, or a block of rows and columns (at the edges a part of one).
Source: the compressed-tensors package, quantization/utils; OCP 8-bit floating point specification.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from qconvert.errors import UnsupportedError
from qconvert.formats.floats import float8_values, to_float32
from qconvert.formats.safetensors.estimate import ranges, searches
from qconvert.formats.safetensors.groups import (
    by_row,
    group_columns,
    joined,
    multiply,
    scale_part,
    scale_shape,
)
from qconvert.formats.safetensors.range_search import search_fp8
from qconvert.formats.safetensors.scales import nonzero, read, rounded, stored
from qconvert.formats.safetensors.types import Estimator, Params, ScaleDtype, WeightFormat
from qconvert.formats.types import Arrays, Coded, Grid, Part, Seen, Units, Weights

TOP = np.float32(448.0)


@dataclass(frozen=True)
class Fp8:
    """Weights as float8.

    Raises:
        UnsupportedError: the layout has no such format.
    """

    form: WeightFormat
    estimator: Estimator
    scale_dtype: ScaleDtype

    chunk = 0

    def __post_init__(self) -> None:
        form = self.form
        if form.bits != 8 or not form.symmetric:
            raise UnsupportedError(f"{form.layout} stores symmetric weights of 8 bits alone")
        if form.strategy not in ("tensor", "channel", "block"):
            raise UnsupportedError(f"{form.layout} has no scales by {form.strategy}")

    @property
    def needs_peak(self) -> bool:
        return self.form.strategy == "tensor"

    @property
    def row_step(self) -> int:
        return self.form.block[0] if self.form.block is not None else 1

    def parts(self, shape: tuple[int, int]) -> tuple[Part, ...]:
        weight = Part("weight", shape, "F8_E4M3", shape[0] * shape[1], True)
        return weight, scale_part(self.form, shape, self.scale_dtype)

    def span(self, columns: int) -> int:
        return group_columns(self.form, columns)

    def fit(self, x: Weights, seen: Seen | None, peak: float | None = None) -> Params:
        low, high = ranges(self.form, x, self.estimator, peak)
        scale = rounded(np.maximum(-low, high) / TOP, self.scale_dtype)
        scale = nonzero(scale, self.scale_dtype)
        if searches(self.form, x, self.estimator):
            scale = search_fp8(self.form, x, seen, scale, self.scale_dtype)
        return Params((x.shape[0], x.shape[1]), scale)

    def join(self, params: Sequence[Params]) -> Params:
        return joined(params)

    def grid(self, params: Params) -> Grid:
        rows, columns = params.shape
        step = by_row(params.scale, self.form, rows)
        values, size = float8_values("F8_E4M3"), group_columns(self.form, columns)
        return Grid(step, np.zeros_like(step), values, size)

    def units(self, params: Params) -> tuple[Units, None]:
        return Units(params.scale, dtype=self.scale_dtype), None

    def with_units(self, params: Params, step: Units, low: Units | None) -> Params:
        assert step.unit is not None
        return Params(params.shape, step.unit)

    def round(self, x: Weights, params: Params) -> np.ndarray:
        """uint8 [rows, columns]: the bits of e4m3fn."""
        from qconvert.kernels import small_floats

        rows, columns = x.shape
        codes = np.empty(x.shape, np.uint8)
        steps = by_row(params.scale, self.form, rows).reshape(-1)
        grouped = (x.reshape(-1), columns, group_columns(self.form, columns), steps)
        small_floats.round_codes(*grouped, small_floats.E4M3, codes.reshape(-1))
        return codes

    def pack(self, codes: np.ndarray, params: Params) -> Arrays:
        scale = stored(params.scale, self.scale_dtype)
        return codes, scale.reshape(-1) if self.form.strategy == "tensor" else scale

    def unpack(self, arrays: Arrays) -> Coded:
        codes = np.ascontiguousarray(arrays[0]).view(np.uint8)
        rows, columns = codes.shape
        scale = read(arrays[1]).reshape(scale_shape(self.form, rows, columns))
        return Coded(codes, Params((rows, columns), scale))

    def dequantize(self, arrays: Arrays) -> Weights:
        codes, params = self.unpack(arrays)
        x = to_float32(codes.reshape(-1), "F8_E4M3").reshape(codes.shape)
        return multiply(x, self.form, params.scale)
