"""Weights as integers of 2 to 8 bits: x' = (code - zero point) * scale.

Codes go from -2**(bits - 1) to 2**(bits - 1) - 1, zero points likewise; symmetric formats have
none. "int-quantized" stores codes and zero points as int8, "pack-quantized" as dense streams of
bits (qconvert.formats.safetensors.packing).

Scales of packed symmetric weights may be negative, which puts the code that one side has more on
the other. Kernels that multiply weights with 16-bit scales, as those for w4a16 do, take them.
Source: the compressed-tensors package, quantization/utils and compressors.
"""

from collections.abc import Mapping

import numpy as np

from qconvert.errors import UnsupportedError
from qconvert.formats.safetensors import packing
from qconvert.formats.safetensors.estimate import ranges, searches
from qconvert.formats.safetensors.groups import by_row, group_columns, scale_shape
from qconvert.formats.safetensors.range_search import search_integers
from qconvert.formats.safetensors.scales import LARGEST, nonzero, read, rounded, stored
from qconvert.formats.safetensors.types import Estimator, Params, Part, ScaleDtype, WeightFormat

ITEM_BYTES = {"BF16": 2, "F16": 2, "F32": 4}


def code_range(bits: int) -> tuple[int, int]:
    """The lowest and the highest code."""
    return -(1 << (bits - 1)), (1 << (bits - 1)) - 1


def check(form: WeightFormat) -> None:
    """Refuse what cannot be stored.

    Raises:
        UnsupportedError: naming it.
    """
    packed = form.layout == "pack-quantized"
    if not (2 if packed else 8) <= form.bits <= 8:
        raise UnsupportedError(f"{form.layout} has no weights of {form.bits} bits")
    if form.strategy not in ("tensor", "channel", "group"):
        raise UnsupportedError(f"integer weights have no scales by {form.strategy}")
    if form.strategy == "tensor" and not form.symmetric:
        raise UnsupportedError("one scale for a tensor has no zero point", "choose channel")


def parts(form: WeightFormat, shape: tuple[int, int], scale_dtype: ScaleDtype) -> tuple[Part, ...]:
    check(form)
    rows, columns = shape
    by_rows = form.strategy != "tensor"
    scales = scale_shape(form, rows, columns) if by_rows else (1,)
    count = int(np.prod(scales))
    scale = Part("weight_scale", scales, scale_dtype, count * ITEM_BYTES[scale_dtype], by_rows)
    if form.layout == "int-quantized":
        zero = Part("weight_zero_point", scales, "I8", count, by_rows)
        weight = Part("weight", (rows, columns), "I8", rows * columns, True)
        return (weight, scale) if form.symmetric else (weight, scale, zero)
    width = packing.words(columns, form.bits)
    weight = Part("weight_packed", (rows, width), "I32", 4 * rows * width, True)
    height = packing.words(rows, form.bits)
    zero = Part("weight_zero_point", (height, scales[-1]), "I32", 4 * height * scales[-1], True)
    size = Part("weight_shape", (2,), "I64", 16, False)
    return (weight, scale, size) if form.symmetric else (weight, scale, zero, size)


def row_step(form: WeightFormat) -> int:
    """Rows whose zero points fill whole words."""
    if form.symmetric or form.layout == "int-quantized":
        return 1
    return 32 // int(np.gcd(form.bits, 32))


def from_ranges(
    form: WeightFormat, low: np.ndarray, high: np.ndarray, scale_dtype: ScaleDtype
) -> Params:
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
        return Params(nonzero(scale, scale_dtype))
    with np.errstate(over="ignore"):
        width = rounded(high - low, scale_dtype)
    scale = rounded(width / steps, scale_dtype)
    with np.errstate(invalid="ignore", divide="ignore", over="ignore"):
        down = rounded(low / scale, scale_dtype)
    zero = rounded(first - down, scale_dtype)
    zero = np.rint(np.clip(zero, first, last)).astype(np.int8)
    return Params(nonzero(scale, scale_dtype), zero)


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
    params = from_ranges(form, low, high, scale_dtype)
    if not searches(form, x, estimator):
        return params
    return search_integers(form, x, importance, params, scale_dtype)


def _zeros(params: Params) -> np.ndarray:
    return np.zeros_like(params.scale) if params.zero_point is None else params.zero_point


def round_codes(form: WeightFormat, x: np.ndarray, params: Params) -> np.ndarray:
    """int8 [rows, columns]."""
    from qconvert.kernels import integers

    rows, columns = x.shape
    codes = np.empty(x.shape, np.int8)
    low, high = code_range(form.bits)
    integers.round_codes(
        x.reshape(-1),
        columns,
        group_columns(form, columns),
        by_row(params.scale, form, rows),
        by_row(_zeros(params), form, rows),
        low,
        high,
        codes.reshape(-1).view(np.uint8),
    )
    return codes


def pack(
    form: WeightFormat, codes: np.ndarray, params: Params, scale_dtype: ScaleDtype
) -> dict[str, np.ndarray]:
    scale = stored(params.scale, scale_dtype)
    packed = form.layout == "pack-quantized"
    made = {"weight_scale": scale.reshape(-1) if form.strategy == "tensor" else scale}
    if packed:
        made["weight_packed"] = packing.pack_rows(codes, form.bits)
    else:
        made["weight"] = codes
    if params.zero_point is not None:
        zero = params.zero_point
        made["weight_zero_point"] = packing.pack_columns(zero, form.bits) if packed else zero
    return made


def dequantize(
    form: WeightFormat, parts: Mapping[str, np.ndarray], shape: tuple[int, int]
) -> np.ndarray:
    from qconvert.kernels import integers

    rows, columns = shape
    zero = parts.get("weight_zero_point")
    if form.layout == "pack-quantized":
        codes = packing.unpack_rows(parts["weight_packed"], form.bits, columns)
        if zero is not None:
            zero = packing.unpack_columns(zero, form.bits, rows)
    else:
        codes = np.ascontiguousarray(parts["weight"])
    scale = read(parts["weight_scale"]).reshape(scale_shape(form, rows, columns))
    x = np.empty(shape, np.float32)
    integers.dequantize(
        codes.reshape(-1),
        columns,
        group_columns(form, columns),
        by_row(scale, form, rows),
        by_row(np.zeros_like(scale) if zero is None else zero, form, rows),
        x.reshape(-1),
    )
    return x
