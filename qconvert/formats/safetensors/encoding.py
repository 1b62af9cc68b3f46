"""From a linear layer's weight to the tensors of a compressed-tensors checkpoint, and back.

    fit(format, x, importance, estimator, peak, scale_dtype) -> params
    round_codes(format, x, params) -> codes
    pack(format, codes, params, scale_dtype) -> arrays by suffix

`quantize` is the three in one, for a slab of rows. Arrays of BF16 are uint16, of F8_E4M3 uint8:
their bits; other dtypes are numpy's own.
"""

from collections.abc import Mapping
from types import ModuleType

import numpy as np

from qconvert.errors import UnsupportedError
from qconvert.formats.safetensors import fp4, fp8, integers
from qconvert.formats.safetensors.types import Estimator, Params, Part, ScaleDtype, WeightFormat

_LAYOUTS: dict[str, ModuleType] = {
    "int-quantized": integers,
    "pack-quantized": integers,
    "float-quantized": fp8,
    "nvfp4-pack-quantized": fp4,
    "mxfp4-pack-quantized": fp4,
}
_EMPTY = {
    "I8": np.int8,
    "U8": np.uint8,
    "I32": np.int32,
    "I64": np.int64,
    "BF16": np.uint16,
    "F16": np.float16,
    "F32": np.float32,
    "F8_E4M3": np.uint8,
}


def _layout(form: WeightFormat) -> ModuleType:
    if form.layout not in _LAYOUTS:
        raise UnsupportedError(
            f"layout {form.layout} is not known", f"known: {', '.join(_LAYOUTS)}"
        )
    return _LAYOUTS[form.layout]


def parts(form: WeightFormat, shape: tuple[int, int], scale_dtype: ScaleDtype) -> tuple[Part, ...]:
    """The tensors that a weight of `shape` [rows, columns] becomes, the codes first.

    Raises:
        UnsupportedError: the layout has no such format.
        PlanError: the group does not divide the columns.
    """
    made: tuple[Part, ...] = _layout(form).parts(form, shape, scale_dtype)
    return made


def row_step(form: WeightFormat) -> int:
    """Slabs of rows begin at multiples of it."""
    if form.layout in ("nvfp4-pack-quantized", "mxfp4-pack-quantized"):
        return 1
    return int(_layout(form).row_step(form))


def needs_peak(form: WeightFormat) -> bool:
    """Whether the largest absolute weight of the whole tensor must be known beforehand."""
    return form.strategy == "tensor" or form.layout == "nvfp4-pack-quantized"


def fit(
    form: WeightFormat,
    x: np.ndarray,
    importance: np.ndarray | None,
    estimator: Estimator,
    peak: float | None,
    scale_dtype: ScaleDtype,
) -> Params:
    """Scales and zero points of some rows, rounded as they are stored.

    Args:
        x: float32 [rows, columns], C order, finite.
        importance: float32 [columns]: the weight of each column's squared error; "mse" alone
            uses it.
        peak: the largest absolute weight of the tensor, or of all that share its scale; where
            `needs_peak`.
        scale_dtype: of scales, where the layout leaves it open.

    Raises:
        PlanError: the group does not divide the columns.
        UsageError: `peak` is missing.
    """
    made: Params = _layout(form).fit(form, x, importance, estimator, peak, scale_dtype)
    return made


def round_codes(form: WeightFormat, x: np.ndarray, params: Params) -> np.ndarray:
    """The nearest codes of x, [rows, columns]: int8 for integers, else uint8."""
    codes: np.ndarray = _layout(form).round_codes(form, x, params)
    return codes


def pack(
    form: WeightFormat, codes: np.ndarray, params: Params, scale_dtype: ScaleDtype
) -> dict[str, np.ndarray]:
    """Codes and params as they are stored, by suffix; all but weight_shape."""
    made: dict[str, np.ndarray] = _layout(form).pack(form, codes, params, scale_dtype)
    return made


def quantize(
    form: WeightFormat,
    x: np.ndarray,
    importance: np.ndarray | None,
    estimator: Estimator,
    peak: float | None,
    scale_dtype: ScaleDtype,
    shape: tuple[int, int],
    first: bool,
) -> tuple[np.ndarray, ...]:
    """The arrays of some rows, in the order of `parts`.

    Those that are per row hold these rows, so that slabs one after the other along the first
    axis make the whole; the others come with the first slab, and are empty with the rest.

    Args:
        x: float32 [rows, columns]: rows from a multiple of `row_step` to another, or to the end.
        shape: of the whole tensor.
        first: whether these rows are its first.
        importance, estimator, peak, scale_dtype: as for `fit`.
    """
    params = fit(form, x, importance, estimator, peak, scale_dtype)
    made = pack(form, round_codes(form, x, params), params, scale_dtype)
    made["weight_shape"] = np.array(shape, np.int64)
    return tuple(
        made[part.suffix] if part.per_row or first else np.empty(0, _EMPTY[part.dtype])
        for part in parts(form, shape, scale_dtype)
    )


def dequantize(
    form: WeightFormat, parts: Mapping[str, np.ndarray], shape: tuple[int, int]
) -> np.ndarray:
    """float32 [rows, columns] of stored arrays, by suffix, as compressed-tensors reads them."""
    x: np.ndarray = _layout(form).dequantize(form, parts, shape)
    return x
