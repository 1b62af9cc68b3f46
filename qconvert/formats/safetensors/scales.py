"""Scales as a file stores them: float32 values that BF16, F16, F32 or F8_E4M3 hold exactly.

Arrays of stored BF16 are uint16, of F8_E4M3 uint8: their bits.
"""

import numpy as np

from qconvert.errors import UnsupportedError
from qconvert.formats.floats import to_float32

EPSILON = {"BF16": 2.0**-7, "F16": 2.0**-10, "F32": 2.0**-23, "F8_E4M3": 2.0**-3}
"""What stands in for a scale of zero, whose codes are zeros: as in compressed-tensors."""

ITEM_BYTES = {"BF16": 2, "F16": 2, "F32": 4, "F8_E4M3": 1, "U8": 1}

LARGEST = {"BF16": 3.3895313892515355e38, "F16": 65504.0, "F32": 3.4028234663852886e38}

_NUMPY = {"BF16": np.uint16, "F16": np.float16, "F32": np.float32, "F8_E4M3": np.uint8}
_NAMES = {np.dtype(kind): name for name, kind in _NUMPY.items()}


def rounded(values: np.ndarray, dtype: str) -> np.ndarray:
    """The float32 that `dtype` holds nearest to `values`, ties to even, infinity excepted.

    Args:
        values: float32, any shape; NaN becomes 0.
        dtype: "BF16", "F16" or "F32".
    """
    top = np.float32(LARGEST[dtype])
    values = np.clip(np.nan_to_num(values, nan=0.0, posinf=top, neginf=-top), -top, top)
    values = np.ascontiguousarray(values, np.float32)
    return values if dtype == "F32" else read(stored(values, dtype))


def nonzero(scale: np.ndarray, dtype: str) -> np.ndarray:
    """`scale` with a small number in place of zeros."""
    return np.where(scale == 0, np.float32(EPSILON[dtype]), scale)


def stored(scale: np.ndarray, dtype: str) -> np.ndarray:
    """Finite float32 as it lies in a file: bits for BF16 and F8_E4M3, else float16 or float32."""
    if dtype == "BF16":
        bits = scale.view(np.uint32)
        return ((bits + 0x7FFF + ((bits >> 16) & 1)) >> 16).astype(np.uint16)
    if dtype == "F8_E4M3":
        from qconvert.kernels import small_floats

        codes = np.empty(scale.shape, np.uint8)
        small_floats.to_bits(np.ascontiguousarray(scale).reshape(-1), codes.reshape(-1))
        return codes
    return scale.astype(_NUMPY[dtype])


def read(scale: np.ndarray) -> np.ndarray:
    """float32 of what `stored` gives; which dtype it is shows in that of the array.

    Raises:
        UnsupportedError: the array is none of these.
    """
    if scale.dtype not in _NAMES:
        raise UnsupportedError(f"scales of type {scale.dtype} cannot be read")
    values = np.ascontiguousarray(scale)
    raw = values.reshape(-1).view(np.uint8)
    return to_float32(raw, _NAMES[scale.dtype]).reshape(scale.shape)
