"""F32, F16 and BF16 as GGUF stores them, and what checkpoints hold, read as float32.

Weights lie one after the other, little-endian: 4 bytes of IEEE 754 binary32, 2 bytes of
binary16, or the upper 2 bytes of a binary32. Narrowing rounds to nearest, ties to even; what is
too large for binary16 becomes infinite.
Source: ggml/src/ggml-impl.h; for float8, the OCP 8-bit floating point specification (OFP8).
"""

import numpy as np

from qconvert.errors import UnsupportedError, WeightError
from qconvert.formats.types import Format, Importance, Packed, Weights

_BY_CAST = {
    "F64": "<f8",
    "I8": "i1",
    "I16": "<i2",
    "I32": "<i4",
    "I64": "<i8",
    "U8": "u1",
    "U16": "<u2",
    "U32": "<u4",
    "U64": "<u8",
    "BOOL": "?",
}


def to_float32(raw: np.ndarray, dtype: str) -> np.ndarray:
    """The values of a tensor's bytes.

    Args:
        raw: uint8 [bytes], contiguous, of any alignment; read only is fine.
        dtype: safetensors' name of it, "BF16". Scales of float8 are the caller's.

    Returns:
        float32 [elements]; for F32 a view of `raw` where its alignment allows it.

    Raises:
        UnsupportedError: for a dtype that is not known.
    """
    if dtype == "F32":
        return _aligned(raw, "<f4")
    if dtype == "F16":
        return _half_to_float(_aligned(raw, "<u2"))
    if dtype == "BF16":
        return _bfloat_to_float(_aligned(raw, "<u2"))
    if dtype in _FLOAT8_TABLES:
        return _float8_to_float(raw, _FLOAT8_TABLES[dtype]())
    if dtype in _BY_CAST:
        with np.errstate(over="ignore", invalid="ignore"):
            return _aligned(raw, _BY_CAST[dtype]).astype(np.float32)
    raise UnsupportedError(
        f"dtype {dtype} cannot be read",
        "known are F64, F32, F16, BF16, F8_E4M3, F8_E5M2 and integers",
    )


F16_LIMIT = 65520.0
"""The least number that becomes infinite when it is rounded to F16."""


def check_f16(name: str, rows: np.ndarray) -> None:
    """Refuse finite weights that F16 would make infinite.

    Raises:
        WeightError: there is one.
    """
    largest = float(np.max(np.abs(rows), initial=0.0, where=np.isfinite(rows)))
    if largest >= F16_LIMIT:
        raise WeightError(
            f"{name} holds a weight of {largest:g}, beyond F16, which ends at 65504",
            "choose bf16 or f32",
        )


def count_nonfinite(x: np.ndarray) -> int:
    """How many of float32 `x` (contiguous, any shape) are NaN or infinite."""
    from qconvert.kernels import floats

    return int(floats.count_nonfinite(x.reshape(-1).view(np.uint32)))


def _aligned(raw: np.ndarray, dtype: str) -> np.ndarray:
    """A view of bytes as `dtype`; a copy where they do not lie on its boundary."""
    values = raw.view(dtype)
    return values if values.flags.aligned else values.copy()


def _half_to_float(halves: np.ndarray) -> np.ndarray:
    from qconvert.kernels import floats

    out = np.empty(halves.size, np.float32)
    floats.half_to_float(halves, out)
    return out


def _bfloat_to_float(upper: np.ndarray) -> np.ndarray:
    from qconvert.kernels import floats

    out = np.empty(upper.size, np.float32)
    floats.bfloat_to_float(upper, out.view(np.uint32))
    return out


def _float8_to_float(codes: np.ndarray, table: np.ndarray) -> np.ndarray:
    from qconvert.kernels import floats

    out = np.empty(codes.size, np.float32)
    floats.look_up(codes, table, out)
    return out


def _e4m3_table() -> np.ndarray:
    """The 256 values of e4m3fn: bias 7, no infinities, NaN where all other bits are set."""
    codes = np.arange(128)
    exponent, mantissa = codes >> 3, codes & 7
    positive = np.where(
        exponent == 0, mantissa * 2.0**-9, (8 + mantissa) * 2.0 ** (exponent.astype(float) - 10)
    )
    positive[127] = np.nan
    return np.concatenate([positive, -positive]).astype(np.float32)


def _e5m2_table() -> np.ndarray:
    """The 256 values of e5m2, which is the upper half of a binary16."""
    return (np.arange(256, dtype=np.uint16) << 8).view(np.float16).astype(np.float32)


def _e8m0_table() -> np.ndarray:
    """The 256 values of e8m0: powers of two from -127 on, the last one NaN."""
    return np.append(np.ldexp(1.0, np.arange(255) - 127), np.nan).astype(np.float32)


_FLOAT8_TABLES = {"F8_E4M3": _e4m3_table, "F8_E5M2": _e5m2_table, "F8_E8M0": _e8m0_table}


def _quantize_f32(x: Weights, importance: Importance) -> Packed:
    return x.view(np.uint8)


def _dequantize_f32(packed: Packed) -> Weights:
    return _aligned(packed, "<f4")


def _quantize_f16(x: Weights, importance: Importance) -> Packed:
    from qconvert.kernels import floats

    out = np.empty(x.shape, np.uint16)
    floats.float_to_half(x.reshape(-1), out.reshape(-1))
    return out.view(np.uint8)


def _dequantize_f16(packed: Packed) -> Weights:
    halves = _aligned(packed, "<u2")
    return _half_to_float(halves.reshape(-1)).reshape(halves.shape)


def _quantize_bf16(x: Weights, importance: Importance) -> Packed:
    from qconvert.kernels import floats

    out = np.empty(x.shape, np.uint16)
    floats.float_to_bfloat(x.reshape(-1).view(np.uint32), out.reshape(-1))
    return out.view(np.uint8)


def _dequantize_bf16(packed: Packed) -> Weights:
    upper = _aligned(packed, "<u2")
    return _bfloat_to_float(upper.reshape(-1)).reshape(upper.shape)


F32 = Format("F32", _quantize_f32, _dequantize_f32)
F16 = Format("F16", _quantize_f16, _dequantize_f16)
BF16 = Format("BF16", _quantize_bf16, _dequantize_bf16)
