"""Weights as float8 e4m3fn: x' = value * scale, the layout "float-quantized".

One scale for a tensor, a row, or a block of rows and columns (at the edges a part of one).
Source: the compressed-tensors package, quantization/utils; OCP 8-bit floating point specification.
"""

from collections.abc import Mapping

import numpy as np

from qconvert.errors import UnsupportedError
from qconvert.formats.floats import to_float32
from qconvert.formats.safetensors.estimate import ranges, searches
from qconvert.formats.safetensors.groups import by_row, group_columns, scale_shape
from qconvert.formats.safetensors.integers import ITEM_BYTES
from qconvert.formats.safetensors.range_search import search_fp8
from qconvert.formats.safetensors.scales import nonzero, read, rounded, stored
from qconvert.formats.safetensors.types import Estimator, Params, Part, ScaleDtype, WeightFormat

TOP = np.float32(448.0)


def check(form: WeightFormat) -> None:
    """Refuse what cannot be stored.

    Raises:
        UnsupportedError: naming it.
    """
    if form.bits != 8 or not form.symmetric:
        raise UnsupportedError(f"{form.layout} stores symmetric weights of 8 bits alone")
    if form.strategy not in ("tensor", "channel", "block"):
        raise UnsupportedError(f"{form.layout} has no scales by {form.strategy}")


def parts(form: WeightFormat, shape: tuple[int, int], scale_dtype: ScaleDtype) -> tuple[Part, ...]:
    check(form)
    rows, columns = shape
    by_rows = form.strategy != "tensor"
    scales = scale_shape(form, rows, columns) if by_rows else (1,)
    nbytes = int(np.prod(scales)) * ITEM_BYTES[scale_dtype]
    return (
        Part("weight", (rows, columns), "F8_E4M3", rows * columns, True),
        Part("weight_scale", scales, scale_dtype, nbytes, by_rows),
    )


def row_step(form: WeightFormat) -> int:
    return form.block[0] if form.block is not None else 1


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
    scale = rounded(np.maximum(-low, high) / TOP, scale_dtype)
    params = Params(nonzero(scale, scale_dtype))
    if not searches(form, x, estimator):
        return params
    return search_fp8(form, x, importance, params, scale_dtype)


def round_codes(form: WeightFormat, x: np.ndarray, params: Params) -> np.ndarray:
    """uint8 [rows, columns]: the bits of e4m3fn."""
    from qconvert.kernels import fp8

    rows, columns = x.shape
    codes = np.empty(x.shape, np.uint8)
    size = group_columns(form, columns)
    scale = by_row(params.scale, form, rows)
    fp8.round_codes(x.reshape(-1), columns, size, scale, codes.reshape(-1))
    return codes


def pack(
    form: WeightFormat, codes: np.ndarray, params: Params, scale_dtype: ScaleDtype
) -> dict[str, np.ndarray]:
    scale = stored(params.scale, scale_dtype)
    return {
        "weight": codes,
        "weight_scale": scale.reshape(-1) if form.strategy == "tensor" else scale,
    }


def dequantize(
    form: WeightFormat, parts: Mapping[str, np.ndarray], shape: tuple[int, int]
) -> np.ndarray:
    rows, columns = shape
    codes = np.ascontiguousarray(parts["weight"]).reshape(-1)
    x = to_float32(codes.view(np.uint8), "F8_E4M3").reshape(shape)
    scale = read(parts["weight_scale"]).reshape(scale_shape(form, rows, columns))
    size = group_columns(form, columns)
    wide = by_row(scale, form, rows).reshape(rows, -1)
    x *= np.repeat(wide, size, axis=1)[:, :columns]
    return x
