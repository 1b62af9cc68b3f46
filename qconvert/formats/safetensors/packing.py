"""Integers of 2 to 8 bits in 32-bit words, as the layout "pack-quantized" has them.

A row is one stream of bits: value + 2**(bits - 1), lowest bits first, without gaps, so that values
of 3, 5, 6 and 7 bits may lie in two words. Each row begins a word of its own. Zero points are
packed likewise, but down the columns.
Source: the compressed-tensors package, compressors/pack_quantized.
"""

import numpy as np


def words(count: int, bits: int) -> int:
    """32-bit words of so many values."""
    return -(-count * bits // 32)


def pack_rows(codes: np.ndarray, bits: int) -> np.ndarray:
    """int8 [rows, columns] -> int32 [rows, words]."""
    from qconvert.kernels import integers

    rows, columns = codes.shape
    out = np.empty((rows, words(columns, bits)), np.uint32)
    flat = np.ascontiguousarray(codes, np.int8).reshape(-1)
    integers.pack(flat, columns, bits, out.reshape(-1))
    return out.view(np.int32)


def unpack_rows(packed: np.ndarray, bits: int, columns: int) -> np.ndarray:
    """int32 [rows, words] -> int8 [rows, columns]."""
    from qconvert.kernels import integers

    codes = np.empty((len(packed), columns), np.int8)
    flat = np.ascontiguousarray(packed).view(np.uint32).reshape(-1)
    integers.unpack(flat, columns, bits, codes.reshape(-1))
    return codes


def pack_columns(codes: np.ndarray, bits: int) -> np.ndarray:
    """int8 [rows, columns] -> int32 [words, columns]."""
    return np.ascontiguousarray(pack_rows(codes.T, bits).T)


def unpack_columns(packed: np.ndarray, bits: int, rows: int) -> np.ndarray:
    """int32 [words, columns] -> int8 [rows, columns]."""
    return np.ascontiguousarray(unpack_rows(packed.T, bits, rows).T)
