"""Rows of quantized weights as numbers."""

from collections.abc import Callable
from typing import Any

import numpy as np

from qconvert.checkpoint.quantized import awq, bitsandbytes, float4, gptq, mlx
from qconvert.checkpoint.quantized.layouts import (
    Awq,
    EightBit,
    FourBit,
    Gptq,
    Layout,
    Mlx,
    Mxfp4,
    Nvfp4,
)
from qconvert.checkpoint.types import Codes, TensorInfo

READERS: dict[type, Callable[..., np.ndarray]] = {
    Gptq: gptq.read,
    Awq: awq.read,
    FourBit: bitsandbytes.read_four_bits,
    EightBit: bitsandbytes.read_eight_bits,
    Mxfp4: float4.read_mxfp4,
    Nvfp4: float4.read_nvfp4,
    Mlx: mlx.read,
}
AT_ONCE = 1 << 22
"""Weights that are decoded at once where they have to be turned."""


def read_quantized(
    tensor: TensorInfo, codes: Codes, layout: Layout, start: int, stop: int
) -> np.ndarray:
    """Rows `start` to `stop`, float32 [stop - start, columns].

    Raises:
        CheckpointError: the files cannot be read, or codes contradict each other.
    """
    read: Any = READERS[type(layout)]
    if not codes.turned:
        return read(layout, codes.parts, tensor.columns, start, stop)  # type: ignore[no-any-return]
    # What is stored are the columns, of each matrix by itself.
    columns, rows = tensor.shape[-2:]
    x = np.empty((stop - start, rows), np.float32)
    step = max(AT_ONCE // columns, 1)
    for matrix in range(start // columns, -(-stop // columns)):
        first, last = max(start, matrix * columns), min(stop, (matrix + 1) * columns)
        inner = slice(first - matrix * columns, last - matrix * columns)
        for row in range(0, rows, step):
            end = min(row + step, rows)
            made = read(layout, codes.parts, columns, matrix * rows + row, matrix * rows + end)
            x[first - start : last - start, row:end] = made[:, inner].T
    return x
