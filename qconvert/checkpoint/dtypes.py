"""Element types: how many bytes they take, and how they become float32.

Names are safetensors' for plain types and ggml's for blocks; where both have a type (F32, I8)
they agree. fp8 follows "FP8 Formats for Deep Learning" (arXiv 2209.05433) and, for E8M0, the
OCP microscaling specification.
"""

from functools import cache

import numpy as np
from gguf import GGML_QUANT_SIZES, GGMLQuantizationType

NUMPY: dict[str, str] = {
    "F64": "<f8",
    "F32": "<f4",
    "F16": "<f2",
    "BF16": "<u2",
    "F8_E4M3": "u1",
    "F8_E5M2": "u1",
    "F8_E8M0": "u1",
    "I64": "<i8",
    "I32": "<i4",
    "I16": "<i2",
    "I8": "i1",
    "U64": "<u8",
    "U32": "<u4",
    "U16": "<u2",
    "U8": "u1",
    "BOOL": "u1",
}

PLAIN: dict[str, int] = {name: np.dtype(code).itemsize for name, code in NUMPY.items()}

FP8 = ("F8_E4M3", "F8_E5M2")


def block_of(dtype: str) -> tuple[int, int]:
    """(elements, bytes) of the smallest unit that can be read on its own."""
    if dtype in PLAIN:
        return 1, PLAIN[dtype]
    elements, nbytes = GGML_QUANT_SIZES[GGMLQuantizationType[dtype]]
    return elements, nbytes


def row_bytes(dtype: str, columns: int) -> int:
    """Bytes of a row; `columns` is a multiple of the block."""
    elements, nbytes = block_of(dtype)
    return columns // elements * nbytes


def to_float32(dtype: str, raw: np.ndarray, columns: int) -> np.ndarray:
    """Decode rows.

    Args:
        dtype: of the elements.
        raw: uint8 [rows, row_bytes], C order.
        columns: elements of a row.

    Returns:
        float32 [rows, columns]; may share memory with `raw`.
    """
    shape = (raw.shape[0], columns)
    if dtype not in PLAIN:
        from gguf.quants import dequantize

        return dequantize(raw, GGMLQuantizationType[dtype]).reshape(shape)
    values = raw.view(NUMPY[dtype]).reshape(shape)
    if dtype == "BF16":
        wide = values.astype(np.uint32)
        np.left_shift(wide, 16, out=wide)
        return wide.view(np.float32)
    if dtype.startswith("F8_"):
        return np.take(fp8_values(dtype), values)
    # Beyond float32's range is infinite, and the caller reports infinite weights by name.
    with np.errstate(over="ignore"):
        return values.astype(np.float32, copy=False)


@cache
def fp8_values(dtype: str) -> np.ndarray:
    """float32 [256]: what each byte of an 8-bit float stands for."""
    codes = np.arange(256)
    if dtype == "F8_E5M2":
        return (codes << 8).astype(np.uint16).view(np.float16).astype(np.float32)
    if dtype == "F8_E8M0":
        values = np.ldexp(1.0, codes - 127)
        values[255] = np.nan
        return values.astype(np.float32)
    exponent, mantissa = codes >> 3 & 15, codes & 7
    normal = np.ldexp(1.0 + mantissa / 8, exponent - 7)
    values = np.where(exponent == 0, np.ldexp(mantissa / 8, -6), normal)
    values[codes & 127 == 127] = np.nan
    return np.where(codes < 128, values, -values).astype(np.float32)
