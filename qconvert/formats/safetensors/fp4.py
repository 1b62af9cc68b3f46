"""Weights as float4 e2m1 in groups: "nvfp4-pack-quantized" and "mxfp4-pack-quantized".

    NVFP4   x' = value * (scale / global scale)   16 weights to an e4m3fn scale
    MXFP4   x' = value * 2**(exponent - 127)      32 weights to a byte

Two codes lie in a byte, the one of the even column in the low bits.
Source: the compressed-tensors package, compressors/nvfp4 and quantization/utils; OCP Microscaling
Formats (MX) specification 1.0.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from qconvert.errors import UnsupportedError, UsageError
from qconvert.formats.floats import float8_values, to_float32
from qconvert.formats.safetensors.estimate import ranges, searches
from qconvert.formats.safetensors.groups import (
    by_row,
    group_columns,
    joined,
    multiply,
    scale_part,
)
from qconvert.formats.safetensors.range_search import search_fp4
from qconvert.formats.safetensors.scales import stored
from qconvert.formats.safetensors.types import Estimator, Params, ScaleDtype, WeightFormat
from qconvert.formats.types import Arrays, Coded, Grid, Part, Seen, Units, Weights

VALUES = np.array([0, 0.5, 1, 1.5, 2, 3, 4, 6, -0.0, -0.5, -1, -1.5, -2, -3, -4, -6], np.float32)
TOP = np.float32(6.0)
SCALE_TOP = np.float32(448.0)

GROUPS = {"nvfp4-pack-quantized": 16, "mxfp4-pack-quantized": 32}
# A quarter of a float32's mantissa: from 1.75 on, a power of two counts as the next one.
_ROUND_UP = np.uint32(1 << 21)
SCALES = float8_values("F8_E4M3")[1:127]
"""The scales of NVFP4: all positive values of e4m3fn."""

POWERS = float8_values("F8_E8M0")[:253]
"""The scales of MXFP4, but for the largest, six times which exceeds float32."""

# What stands in for a scale of zero, 0.125: as in compressed-tensors.
_EPSILON_CODE = 0x20
_TINY = float(np.finfo(np.float32).tiny)


@dataclass(frozen=True)
class Fp4:
    """Weights as float4: `scale_dtype` has no say, for the layouts have their own.

    Raises:
        UnsupportedError: the layout has no such format.
    """

    form: WeightFormat
    estimator: Estimator
    scale_dtype: ScaleDtype

    row_step = 1
    chunk = 0

    def __post_init__(self) -> None:
        form, size = self.form, GROUPS[self.form.layout]
        if (form.bits, form.strategy, form.group_size) != (4, "group", size) or not form.symmetric:
            raise UnsupportedError(f"{form.layout} stores symmetric groups of {size} alone")

    @property
    def needs_peak(self) -> bool:
        """NVFP4's global scale is that of the whole tensor."""
        return self.form.layout == "nvfp4-pack-quantized"

    @property
    def scale_kind(self) -> str:
        return "F8_E4M3" if self.needs_peak else "U8"

    def parts(self, shape: tuple[int, int]) -> tuple[Part, ...]:
        rows, columns = shape
        weight = Part("weight_packed", (rows, columns // 2), "U8", rows * columns // 2, True)
        scale = scale_part(self.form, shape, self.scale_kind)
        whole = Part("weight_global_scale", (1,), "F32", 4, False)
        return (weight, scale, whole) if self.needs_peak else (weight, scale)

    def span(self, columns: int) -> int:
        return group_columns(self.form, columns)

    def fit(self, x: Weights, seen: Seen | None, peak: float | None = None) -> Params:
        low, high = ranges(self.form, x, self.estimator, peak)
        top = np.abs(np.maximum(-low, high))  # zeros without a sign: their bits are looked at
        if not self.needs_peak:
            whole, values = None, POWERS
            table, indices = POWERS, _powers(top)
        else:
            if peak is None:
                raise UsageError("NVFP4 needs the largest weight of the tensor")
            whole, values = global_scale(peak), SCALES
            table, indices = SCALES / whole, _scales(top, whole)
        if searches(self.form, x, self.estimator):
            indices = search_fp4(self.form, x, seen, table, indices)
        return Params((x.shape[0], x.shape[1]), values[indices], None, whole)

    def join(self, params: Sequence[Params]) -> Params:
        return joined(params)

    def grid(self, params: Params) -> Grid:
        step = steps(params)
        return Grid(step, np.zeros_like(step), VALUES, GROUPS[self.form.layout])

    def units(self, params: Params) -> tuple[Units, None]:
        whole = params.global_scale
        if whole is None:
            return Units(params.scale, dtype=""), None
        return Units(params.scale, dtype="F8_E4M3", by=float(1 / whole)), None

    def with_units(self, params: Params, step: Units, low: Units | None) -> Params:
        assert step.unit is not None
        return Params(params.shape, step.unit, None, params.global_scale)

    def round(self, x: Weights, params: Params) -> np.ndarray:
        """uint8 [rows, columns]: 0 to 15."""
        from qconvert.kernels import small_floats

        rows, columns = x.shape
        codes = np.empty(x.shape, np.uint8)
        step = by_row(steps(params), self.form, rows).reshape(-1)
        grouped = (x.reshape(-1), columns, group_columns(self.form, columns), step)
        small_floats.round_codes(*grouped, small_floats.E2M1, codes.reshape(-1))
        return codes

    def pack(self, codes: np.ndarray, params: Params) -> Arrays:
        from qconvert.kernels import small_floats

        packed = np.empty((len(codes), codes.shape[1] // 2), np.uint8)
        small_floats.pack(codes.reshape(-1), packed.reshape(-1))
        if params.global_scale is None:
            exponent = np.frexp(params.scale)[1] + 126
            return packed, exponent.astype(np.uint8)
        whole = np.array([params.global_scale], np.float32)
        return packed, stored(params.scale, "F8_E4M3"), whole

    def unpack(self, arrays: Arrays) -> Coded:
        packed, scale = arrays[0], np.ascontiguousarray(arrays[1]).view(np.uint8)
        codes = np.empty((len(packed), 2 * packed.shape[1]), np.uint8)
        codes[:, 0::2] = packed & 15
        codes[:, 1::2] = packed >> 4
        dtype = "F8_E4M3" if self.needs_peak else "F8_E8M0"
        values = to_float32(scale.reshape(-1), dtype).reshape(scale.shape)
        whole = np.float32(arrays[2].reshape(-1)[0]) if self.needs_peak else None
        return Coded(codes, Params((len(codes), codes.shape[1]), values, None, whole))

    def dequantize(self, arrays: Arrays) -> Weights:
        codes, params = self.unpack(arrays)
        return multiply(VALUES[codes], self.form, steps(params))


def global_scale(peak: float) -> np.float32:
    """What puts the largest scale of a tensor whose largest weight is `peak` at 448."""
    with np.errstate(over="ignore"):
        scale = np.float32(SCALE_TOP * TOP) / np.float32(max(peak, _TINY))
    made: np.float32 = scale if np.isfinite(scale) else np.float32(1)
    return made


def _powers(top: np.ndarray) -> np.ndarray:
    """Indices in POWERS: the largest weight of a group is 3.5 to 7 times as much."""
    exponent = ((top.view(np.uint32) + _ROUND_UP) >> 23).astype(np.int32) - 2
    return np.asarray(np.clip(exponent, 0, POWERS.size - 1))


def _scales(top: np.ndarray, whole: np.float32) -> np.ndarray:
    """Indices in SCALES: the largest weight of a group is about 6 times as much."""
    scale = np.minimum(top / TOP * whole, SCALE_TOP).astype(np.float32)
    codes = stored(scale, "F8_E4M3").astype(np.int32)
    return np.where(codes == 0, _EPSILON_CODE, codes) - 1


def steps(params: Params) -> np.ndarray:
    """What values are multiplied with, float32 of the shape of scales."""
    whole = params.global_scale
    return params.scale if whole is None else np.asarray(params.scale / whole, np.float32)
