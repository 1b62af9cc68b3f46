"""Codes that a type of ggml's has too: its bytes, without a detour through numbers.

    MXFP4 of others   code 0 | code 1 << 4, code 2 | code 3 << 4, ...   exponents by themselves
    MXFP4 of ggml     exponent, code 0 | code 16 << 4, code 1 | code 17 << 4, ...

Both mean the same by codes and exponents. Source: ggml/src/ggml-common.h.
"""

import numpy as np

from qconvert.checkpoint.quantized.layouts import Mxfp4
from qconvert.checkpoint.rows import read_bytes
from qconvert.checkpoint.types import Codes, TensorInfo
from qconvert.formats.safetensors.types import WeightFormat

BLOCK = 32
NAMES = (("codes", "scales"), ("weight_packed", "weight_scale"))
"""What the parts are called in `Mxfp4` and in compressed-tensors' layout."""


def ggml_type(info: TensorInfo) -> str:
    """ggml's name of what a tensor's codes are; for all others their dtype."""
    return "MXFP4" if info.codes is not None and _is_mxfp4(info.codes) else info.dtype


def _is_mxfp4(codes: Codes) -> bool:
    if isinstance(codes.form, WeightFormat):
        return codes.form.layout == "mxfp4-pack-quantized"
    return isinstance(codes.form, Mxfp4)


def read_blocks(info: TensorInfo, start: int, stop: int) -> np.ndarray:
    """Rows of codes in ggml's bytes: uint8 [stop - start, row bytes].

    Args:
        info: a tensor whose `ggml_type` is one.
        start, stop: rows as codes have them; of a tensor that is turned, its columns.

    Raises:
        CheckpointError: the file cannot be read.
    """
    if info.codes is None:
        return read_bytes(info, start, stop)
    parts = info.codes.parts
    codes, scales = next((parts[c], parts[s]) for c, s in NAMES if c in parts)
    packed = read_bytes(codes, start, stop).reshape(stop - start, -1, BLOCK // 2)
    exponents = read_bytes(scales, start, stop)
    apart = np.stack([packed & 15, packed >> 4], axis=-1).reshape(*packed.shape[:2], BLOCK)
    blocks = np.empty((*packed.shape[:2], 1 + BLOCK // 2), np.uint8)
    blocks[..., 0] = exponents
    blocks[..., 1:] = apart[..., : BLOCK // 2] | apart[..., BLOCK // 2 :] << 4
    return blocks.reshape(stop - start, -1)
