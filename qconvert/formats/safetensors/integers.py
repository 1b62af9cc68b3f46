"""Weights as integers of 2 to 8 bits: x' = (code - zero point) * scale.

Codes go from -2**(bits - 1) to 2**(bits - 1) - 1, zero points likewise; symmetric formats have
none. "int-quantized" stores codes and zero points as int8, "pack-quantized" as dense streams of
bits (qconvert.formats.safetensors.packing).

Scales of packed symmetric weights may be negative, which puts the code that one side has more on
the other. Kernels that multiply weights with 16-bit scales, as those for w4a16 do, take them.
Source: the compressed-tensors package, quantization/utils and compressors.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from qconvert.errors import UnsupportedError
from qconvert.formats.safetensors import packing
from qconvert.formats.safetensors.estimate import ranges, searches
from qconvert.formats.safetensors.groups import (
    by_row,
    by_scale,
    group_columns,
    joined,
    scale_part,
    scale_shape,
)
from qconvert.formats.safetensors.range_search import search_integers
from qconvert.formats.safetensors.scales import LARGEST, nonzero, read, rounded, stored
from qconvert.formats.safetensors.types import Estimator, Params, ScaleDtype, WeightFormat
from qconvert.formats.types import Arrays, Coded, Grid, Part, Seen, Units, Weights


def code_range(bits: int) -> tuple[int, int]:
    """The lowest and the highest code."""
    return -(1 << (bits - 1)), (1 << (bits - 1)) - 1


def from_ranges(
    form: WeightFormat, low: np.ndarray, high: np.ndarray, scale_dtype: ScaleDtype
) -> tuple[np.ndarray, np.ndarray | None]:
    """Scales, and zero points, that make the codes span the ranges and zero.

    Rounded to the dtype of scales at each step, as compressed-tensors has it, whose weights are
    of that dtype.
    """
    first, last = code_range(form.bits)
    steps = np.float32(last - first)
    low, high = np.minimum(low, np.float32(0)), np.maximum(high, np.float32(0))
    if form.symmetric:
        scale = rounded(np.maximum(-low, high) / (steps / 2), scale_dtype)
        # The lowest code reaches further than the range, and might exceed the dtype.
        scale = np.minimum(scale, np.float32(LARGEST[scale_dtype] / -first))
        return nonzero(scale, scale_dtype), None
    with np.errstate(over="ignore"):
        width = rounded(high - low, scale_dtype)
    scale = rounded(width / steps, scale_dtype)
    with np.errstate(invalid="ignore", divide="ignore", over="ignore"):
        down = rounded(low / scale, scale_dtype)
    zero = rounded(first - down, scale_dtype)
    zero = np.rint(np.clip(zero, first, last)).astype(np.int8)
    return nonzero(scale, scale_dtype), zero


@dataclass(frozen=True)
class Integers:
    """Weights as integers: the layouts "int-quantized" and "pack-quantized".

    Raises:
        UnsupportedError: the layout has no such format.
    """

    form: WeightFormat
    estimator: Estimator
    scale_dtype: ScaleDtype

    chunk = 0

    def __post_init__(self) -> None:
        form = self.form
        if not (2 if self.packed else 8) <= form.bits <= 8:
            raise UnsupportedError(f"{form.layout} has no weights of {form.bits} bits")
        if form.strategy not in ("tensor", "channel", "group"):
            raise UnsupportedError(f"integer weights have no scales by {form.strategy}")
        if form.strategy == "tensor" and not form.symmetric:
            raise UnsupportedError("one scale for a tensor has no zero point", "choose channel")

    @property
    def packed(self) -> bool:
        return self.form.layout == "pack-quantized"

    @property
    def needs_peak(self) -> bool:
        return self.form.strategy == "tensor"

    @property
    def row_step(self) -> int:
        """Rows whose zero points fill whole words."""
        if self.form.symmetric or not self.packed:
            return 1
        return 32 // int(np.gcd(self.form.bits, 32))

    def parts(self, shape: tuple[int, int]) -> tuple[Part, ...]:
        rows, columns = shape
        scale = scale_part(self.form, shape, self.scale_dtype)
        if not self.packed:
            weight = Part("weight", shape, "I8", rows * columns, True)
            count = rows * scale.shape[-1]
            zero = Part("weight_zero_point", scale.shape, "I8", count, True)
            return (weight, scale) if self.form.symmetric else (weight, scale, zero)
        width = packing.words(columns, self.form.bits)
        weight = Part("weight_packed", (rows, width), "I32", 4 * rows * width, True)
        size = Part("weight_shape", (2,), "I64", 16, False)
        if self.form.symmetric:
            return weight, scale, size
        zeros = (packing.words(rows, self.form.bits), scale.shape[-1])
        zero = Part("weight_zero_point", zeros, "I32", 4 * zeros[0] * zeros[1], True)
        return weight, scale, zero, size

    def span(self, columns: int) -> int:
        return group_columns(self.form, columns)

    def fit(self, x: Weights, seen: Seen | None, peak: float | None = None) -> Params:
        low, high = ranges(self.form, x, self.estimator, peak)
        scale, zero = from_ranges(self.form, low, high, self.scale_dtype)
        if searches(self.form, x, self.estimator):
            scale, zero = search_integers(self.form, x, seen, scale, zero, self.scale_dtype)
        return Params((x.shape[0], x.shape[1]), scale, zero)

    def join(self, params: Sequence[Params]) -> Params:
        return joined(params)

    def grid(self, params: Params) -> Grid:
        step = self._by_row(params.scale, params)
        low = np.zeros_like(step)
        if params.zero_point is not None:
            low = step * self._by_row(params.zero_point, params)
        first, last = code_range(self.form.bits)
        size = group_columns(self.form, params.shape[1])
        return Grid(step, low, np.arange(first, last + 1, dtype=np.float32), size, first)

    def _by_row(self, values: np.ndarray, params: Params) -> np.ndarray:
        return by_row(values, self.form, params.shape[0])

    def units(self, params: Params) -> tuple[Units, Units | None]:
        step = Units(params.scale, dtype=self.scale_dtype)
        zero = params.zero_point
        if zero is None:
            return step, None
        limits = code_range(self.form.bits)
        return step, Units(None, self._by_row(zero, params).astype(np.int8), limits)

    def with_units(self, params: Params, step: Units, low: Units | None) -> Params:
        assert step.unit is not None
        if low is None or low.whole is None:
            return Params(params.shape, step.unit)
        return Params(params.shape, step.unit, by_scale(low.whole, self.form).astype(np.int8))

    def round(self, x: Weights, params: Params) -> np.ndarray:
        """int8 [rows, columns]."""
        from qconvert.kernels import integers

        columns = x.shape[1]
        codes = np.empty(x.shape, np.int8)
        integers.round_codes(
            x.reshape(-1),
            columns,
            group_columns(self.form, columns),
            self._by_row(params.scale, params).reshape(-1),
            self._by_row(_zeros(params.zero_point, params.scale), params).reshape(-1),
            *code_range(self.form.bits),
            codes.reshape(-1).view(np.uint8),
        )
        return codes

    def pack(self, codes: np.ndarray, params: Params) -> Arrays:
        scale, zero = stored(params.scale, self.scale_dtype), params.zero_point
        scale = scale.reshape(-1) if self.form.strategy == "tensor" else scale
        if not self.packed:
            return (codes, scale) if zero is None else (codes, scale, zero)
        bits, size = self.form.bits, np.array(codes.shape, np.int64)
        words = packing.pack_rows(codes, bits)
        if zero is None:
            return words, scale, size
        return words, scale, packing.pack_columns(zero, bits), size

    def unpack(self, arrays: Arrays) -> Coded:
        form, zero = self.form, None if self.form.symmetric else arrays[2]
        if self.packed:
            rows, columns = (int(size) for size in arrays[-1])
            codes = packing.unpack_rows(arrays[0], form.bits, columns)
            zero = None if zero is None else packing.unpack_columns(zero, form.bits, rows)
        else:
            codes = np.ascontiguousarray(arrays[0])
            rows, columns = codes.shape
        scale = read(arrays[1]).reshape(scale_shape(form, rows, columns))
        return Coded(codes, Params((rows, columns), scale, zero))

    def dequantize(self, arrays: Arrays) -> Weights:
        from qconvert.kernels import integers

        codes, params = self.unpack(arrays)
        rows, columns = codes.shape
        x = np.empty((rows, columns), np.float32)
        integers.dequantize(
            codes.reshape(-1),
            columns,
            group_columns(self.form, columns),
            self._by_row(params.scale, params).reshape(-1),
            self._by_row(_zeros(params.zero_point, params.scale), params).reshape(-1),
            x.reshape(-1),
        )
        return x


def _zeros(zero: np.ndarray | None, scale: np.ndarray) -> np.ndarray:
    return np.zeros_like(scale) if zero is None else zero
