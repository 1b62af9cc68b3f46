"""Element types: how many bytes they take, and how rows of them become float32.

Names are safetensors' for plain types and ggml's for blocks; where both have a type (F32, I8)
they agree.
"""

import numpy as np

from qconvert.formats import dequantize_any
from qconvert.formats.floats import to_float32
from qconvert.formats.types import block_sizes

PLAIN: dict[str, int] = {
    "F64": 8,
    "F32": 4,
    "F16": 2,
    "BF16": 2,
    "F8_E4M3": 1,
    "F8_E5M2": 1,
    "F8_E8M0": 1,
    "I64": 8,
    "I32": 4,
    "I16": 2,
    "I8": 1,
    "U64": 8,
    "U32": 4,
    "U16": 2,
    "U8": 1,
    "BOOL": 1,
}

FP8 = ("F8_E4M3", "F8_E5M2")


def row_bytes(dtype: str, columns: int) -> int:
    """Bytes of a row; `columns` is a multiple of the block."""
    if dtype in PLAIN:
        return columns * PLAIN[dtype]
    block, block_bytes = block_sizes(dtype)
    return columns // block * block_bytes


def decode(dtype: str, raw: np.ndarray, columns: int) -> np.ndarray:
    """The numbers that bytes stand for.

    Args:
        dtype: of the elements.
        raw: uint8 [rows, row_bytes], C order.
        columns: elements of a row.

    Returns:
        float32 [rows, columns]; may share memory with `raw`.

    Raises:
        UnsupportedError: a type of ggml's that is not read.
    """
    shape = (raw.shape[0], columns)
    if raw.size == 0:
        return np.empty(shape, np.float32)
    if dtype in PLAIN:
        return to_float32(raw.reshape(-1), dtype).reshape(shape)
    return dequantize_any(raw, dtype).reshape(shape)
