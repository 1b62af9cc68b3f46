"""Weights as float4 e2m1 in groups: "nvfp4-pack-quantized" and "mxfp4-pack-quantized".

    NVFP4   x' = value * (scale / global scale)   16 weights to an e4m3fn scale
    MXFP4   x' = value * 2**(exponent - 127)      32 weights to a byte

Two codes lie in a byte, the one of the even column in the low bits.
Source: the compressed-tensors package, compressors/nvfp4 and quantization/utils; OCP Microscaling
Formats (MX) specification 1.0.
"""

from collections.abc import Mapping

import numpy as np

from qconvert.errors import UnsupportedError, UsageError
from qconvert.formats.floats import to_float32
from qconvert.formats.safetensors.estimate import ranges, searches
from qconvert.formats.safetensors.groups import by_row, group_columns, scale_shape
from qconvert.formats.safetensors.range_search import search_fp4
from qconvert.formats.safetensors.scales import stored
from qconvert.formats.safetensors.types import Estimator, Params, Part, ScaleDtype, WeightFormat

VALUES = np.array([0, 0.5, 1, 1.5, 2, 3, 4, 6, -0.0, -0.5, -1, -1.5, -2, -3, -4, -6], np.float32)
TOP = np.float32(6.0)
SCALE_TOP = np.float32(448.0)

GROUPS = {"nvfp4-pack-quantized": 16, "mxfp4-pack-quantized": 32}
# A quarter of a float32's mantissa: from 1.75 on, a power of two counts as the next one.
_ROUND_UP = np.uint32(1 << 21)
SCALES = to_float32(np.arange(1, 127, dtype=np.uint8), "F8_E4M3")
"""The scales of NVFP4: all positive values of e4m3fn."""

POWERS = to_float32(np.arange(253, dtype=np.uint8), "F8_E8M0")
"""The scales of MXFP4, but for the largest, six times which exceeds float32."""

# What stands in for a scale of zero, 0.125: as in compressed-tensors.
_EPSILON_CODE = 0x20
_TINY = float(np.finfo(np.float32).tiny)


def check(form: WeightFormat) -> None:
    """Refuse what cannot be stored.

    Raises:
        UnsupportedError: naming it.
    """
    size = GROUPS[form.layout]
    if (form.bits, form.strategy, form.group_size) != (4, "group", size) or not form.symmetric:
        raise UnsupportedError(f"{form.layout} stores symmetric groups of {size} alone")


def parts(form: WeightFormat, shape: tuple[int, int], scale_dtype: ScaleDtype) -> tuple[Part, ...]:
    """`scale_dtype` has no say: the layout has its own."""
    check(form)
    rows, columns = shape
    scales = scale_shape(form, rows, columns)
    count = scales[0] * scales[1]
    weight = Part("weight_packed", (rows, columns // 2), "U8", rows * columns // 2, True)
    if form.layout == "mxfp4-pack-quantized":
        return weight, Part("weight_scale", scales, "U8", count, True)
    return (
        weight,
        Part("weight_scale", scales, "F8_E4M3", count, True),
        Part("weight_global_scale", (1,), "F32", 4, False),
    )


def global_scale(peak: float) -> np.float32:
    """What puts the largest scale of a tensor whose largest weight is `peak` at 448."""
    with np.errstate(over="ignore"):
        scale = np.float32(SCALE_TOP * TOP) / np.float32(max(peak, _TINY))
    made: np.float32 = scale if np.isfinite(scale) else np.float32(1)
    return made


def fit(
    form: WeightFormat,
    x: np.ndarray,
    importance: np.ndarray | None,
    estimator: Estimator,
    peak: float | None,
    scale_dtype: ScaleDtype,
) -> Params:
    check(form)
    low, high = ranges(form, x, estimator, peak)
    top = np.abs(np.maximum(-low, high))  # zeros without a sign: their bits are looked at
    if form.layout == "mxfp4-pack-quantized":
        whole, values = None, POWERS
        table, indices = POWERS, _powers(top)
    else:
        if peak is None:
            raise UsageError("NVFP4 needs the largest weight of the tensor")
        whole, values = global_scale(peak), SCALES
        table, indices = SCALES / whole, _scales(top, whole)
    if searches(form, x, estimator):
        indices = search_fp4(form, x, importance, table, indices)
    return Params(values[indices], None, whole)


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


def round_codes(form: WeightFormat, x: np.ndarray, params: Params) -> np.ndarray:
    """uint8 [rows, columns]: 0 to 15."""
    from qconvert.kernels import fp4

    rows, columns = x.shape
    codes = np.empty(x.shape, np.uint8)
    size = group_columns(form, columns)
    step = by_row(steps(params), form, rows)
    fp4.round_codes(x.reshape(-1), columns, size, step, codes.reshape(-1))
    return codes


def pack(
    form: WeightFormat, codes: np.ndarray, params: Params, scale_dtype: ScaleDtype
) -> dict[str, np.ndarray]:
    from qconvert.kernels import fp4

    packed = np.empty((len(codes), codes.shape[1] // 2), np.uint8)
    fp4.pack(codes.reshape(-1), packed.reshape(-1))
    if params.global_scale is None:
        exponent = np.frexp(params.scale)[1] + 126
        return {"weight_packed": packed, "weight_scale": exponent.astype(np.uint8)}
    return {
        "weight_packed": packed,
        "weight_scale": stored(params.scale, "F8_E4M3"),
        "weight_global_scale": np.array([params.global_scale], np.float32),
    }


def dequantize(
    form: WeightFormat, parts: Mapping[str, np.ndarray], shape: tuple[int, int]
) -> np.ndarray:
    packed = parts["weight_packed"]
    x = np.empty(shape, np.float32)
    x[:, 0::2] = VALUES[packed & 15]
    x[:, 1::2] = VALUES[packed >> 4]
    kept = np.ascontiguousarray(parts["weight_scale"]).view(np.uint8)
    dtype = "F8_E8M0" if form.layout == "mxfp4-pack-quantized" else "F8_E4M3"
    step = to_float32(kept.reshape(-1), dtype).reshape(kept.shape)
    if dtype == "F8_E4M3":
        step = step / np.float32(parts["weight_global_scale"].reshape(-1)[0])
    x *= np.repeat(step, GROUPS[form.layout], axis=1)
    return x
