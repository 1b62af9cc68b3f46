"""AWQ, the version "gemm": integers of 4 bits packed along the outputs.

    qweight   i32 [in, out / 8]        eight codes, of outputs 0 2 4 6 1 3 5 7 from the lowest bits
    qzeros    i32 [groups, out / 8]    zero points, likewise
    scales    f16, bf16, f32 [groups, out]

    w[out, in] = (code - zero) * scale

Source: AutoAWQ, utils/packing_utils.py and modules/linear/gemm.py; arXiv 2306.00978.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np

from qconvert.checkpoint.foreign import ORIGINAL
from qconvert.checkpoint.quantized.layouts import Awq
from qconvert.checkpoint.quantized.parts import (
    FLOATS,
    MISFIT,
    Parts,
    check_shape,
    check_size,
    matrix,
    need,
    read_columns,
    weight,
)
from qconvert.checkpoint.types import TensorInfo
from qconvert.errors import CheckpointError, UnsupportedError
from qconvert.formats.floats import to_float32

ENDINGS = (".qweight", ".qzeros", ".scales")
FIRST = ".qweight"
PACKED = 8
PLACES = np.array([0, 4, 1, 5, 2, 6, 3, 7])
"""Which four bits of a word each of eight outputs lies in."""


def check_settings(quantization: Mapping[str, Any]) -> None:
    """Refuse what lies in another way under the same names."""
    version = str(quantization.get("version") or quantization.get("format") or "gemm").lower()
    bits = quantization.get("bits", quantization.get("w_bit", 4))
    if version != "gemm" or bits != 4:
        raise UnsupportedError(
            f"AWQ's layout {version!r:.40} with {bits!r:.20} bits is not read", ORIGINAL
        )


def join(stem: str, parts: Parts, quantization: Mapping[str, Any], turned: bool) -> TensorInfo:
    """A layer's weight.

    Raises:
        CheckpointError: its tensors do not fit each other.
    """
    qweight = need(parts, stem, ".qweight", ("I32",))
    qzeros = need(parts, stem, ".qzeros", ("I32",))
    scales = need(parts, stem, ".scales", FLOATS)
    (inputs, words), (groups, _) = matrix(qweight), matrix(scales)
    outputs = words * PACKED
    check_size(stem, (outputs, inputs))
    check_shape(scales, (groups, outputs))
    check_shape(qzeros, (groups, words))
    size, rest = divmod(inputs, groups)
    if rest or not size:
        raise CheckpointError(
            f"{scales.name!r:.200}: {groups} groups do not divide rows of {inputs} weights", MISFIT
        )
    stored = {ending: parts[ending] for ending in ENDINGS}
    return weight(f"{stem}.weight", (outputs, inputs), Awq(size), stored, turned=turned)


def read(layout: Awq, parts: Parts, columns: int, start: int, stop: int) -> np.ndarray:
    """Rows `start` to `stop` of the weight, float32 [stop - start, columns]."""
    from qconvert.kernels import integers

    codes = _unpacked(parts[".qweight"], start, stop).view(np.int8)
    zeros = _unpacked(parts[".qzeros"], start, stop).astype(np.float32)
    scales = read_columns(parts[".scales"], start, stop)
    factors = to_float32(scales.reshape(-1).view(np.uint8), parts[".scales"].dtype)
    factors = np.ascontiguousarray(factors.reshape(scales.shape).T)
    x = np.empty((stop - start, columns), np.float32)
    steps = factors.reshape(-1), zeros.reshape(-1)
    integers.dequantize(codes.reshape(-1), columns, layout.group_size, *steps, x.reshape(-1))
    return x


def _unpacked(info: TensorInfo, start: int, stop: int) -> np.ndarray:
    """Codes of outputs `start` to `stop`, uint8 [stop - start, rows]."""
    first, last = start // PACKED, -(-stop // PACKED)
    words = np.ascontiguousarray(read_columns(info, first, last).T).view(np.uint32)
    codes = np.empty((last - first, PACKED, info.rows), np.uint8)
    for output, place in enumerate(PLACES):
        codes[:, output] = words >> np.uint32(4 * place) & 15
    start -= first * PACKED
    return codes.reshape(-1, info.rows)[start : stop - first * PACKED]
