"""Floats of 4 bits (e2m1), two to a byte, the low four bits first.

    MXFP4   X_blocks        u8 [experts, out, in / 32, 16]      gpt-oss; X is [experts, in, out]
            X_scales        u8 [experts, out, in / 32]          2**(e - 127)
            X.weight        u8 or i8 [out, in / 2]              DeepSeek V4, ModelOpt
            X.scale, X.weight_scale   e8m0 or u8 [out, in / 32]
    NVFP4   X.weight        u8 [out, in / 2]                    ModelOpt
            X.weight_scale  e4m3 [out, in / 16]
            X.weight_scale_2   f32 []
            X.pre_quant_scale  [in], what inputs are multiplied with first; mostly left out

    w = value * scale * scale_2 * pre_quant_scale

compressed-tensors divides by its global scale where ModelOpt multiplies.
Source: OCP Microscaling Formats (MX) specification 1.0; transformers, integrations/mxfp4.py and
finegrained_fp8.py; ModelOpt, torch/quantization/qtensor and torch/export.
"""

from dataclasses import replace
from math import prod

import numpy as np

from qconvert.checkpoint.quantized.layouts import Mxfp4, Nvfp4
from qconvert.checkpoint.quantized.parts import (
    FLOATS,
    MISFIT,
    Parts,
    check_shape,
    check_size,
    need,
    read_floats,
    read_part,
    weight,
)
from qconvert.checkpoint.types import TensorInfo
from qconvert.errors import CheckpointError
from qconvert.formats.floats import to_float32

POWERS = 32
"""Weights to a power of two."""

SCALED = 16
"""Weights to a scale of NVFP4."""

BYTES = ("U8", "I8")
EXPONENTS = ("U8", "F8_E8M0")


def join_experts(stem: str, parts: Parts) -> TensorInfo:
    """The experts of a layer as gpt-oss has them.

    Raises:
        CheckpointError: its tensors do not fit each other.
    """
    blocks = need(parts, stem, "_blocks", ("U8",))
    scales = need(parts, stem, "_scales", EXPONENTS)
    if len(blocks.shape) < 3 or blocks.shape[-1] != POWERS // 2:
        raise CheckpointError(f"{blocks.name!r:.200} has shape {list(blocks.shape)}", MISFIT)
    check_shape(scales, blocks.shape[:-1])
    *outer, groups = scales.shape
    check_size(stem, (*outer, groups * POWERS))
    stored = {
        "codes": replace(blocks, shape=(prod(outer), groups * POWERS // 2)),
        "scales": replace(scales, shape=(prod(outer), groups)),
    }
    shape = (*outer, groups * POWERS)
    return weight(stem, shape, Mxfp4(), stored, turned=len(outer) > 1)


def join_mxfp4(
    name: str, codes: TensorInfo, scales: TensorInfo, turned: bool = False
) -> TensorInfo:
    """A weight whose rows are stored one by one.

    Raises:
        CheckpointError: the scales do not fit.
    """
    shape = (*codes.shape[:-1], 2 * codes.columns)
    check_size(name, shape)
    check_shape(scales, (*shape[:-1], -(-shape[-1] // POWERS)))
    if shape[-1] % POWERS:
        raise CheckpointError(f"{name!r:.200}: rows of {shape[-1]} are no groups of {POWERS}")
    return weight(name, shape, Mxfp4(), {"codes": codes, "scales": scales}, turned=turned)


def join_nvfp4(stem: str, parts: Parts, turned: bool) -> TensorInfo:
    """A layer as ModelOpt has it.

    Raises:
        CheckpointError: its tensors do not fit each other.
    """
    codes = need(parts, stem, ".weight", ("U8",))
    scales = need(parts, stem, ".weight_scale", ("F8_E4M3",))
    whole = need(parts, stem, ".weight_scale_2", FLOATS)
    shape = (*codes.shape[:-1], 2 * codes.columns)
    check_size(stem, shape)
    check_shape(scales, (*shape[:-1], shape[-1] // SCALED))
    if shape[-1] % SCALED or len(shape) < 2:
        raise CheckpointError(f"{stem!r:.200}: rows of {shape[-1]} are no groups of {SCALED}")
    if whole.elements not in (1, prod(shape[:-2])):
        raise CheckpointError(f"{whole.name!r:.200} has shape {list(whole.shape)}", MISFIT)
    stored = {"codes": codes, "scales": scales, "whole": whole}
    if ".pre_quant_scale" in parts:
        stored["inputs"] = need(parts, stem, ".pre_quant_scale", FLOATS)
        if stored["inputs"].elements != shape[-1]:
            check_shape(stored["inputs"], (shape[-1],))
    return weight(f"{stem}.weight", shape, Nvfp4(), stored, turned=turned)


def read_mxfp4(layout: Mxfp4, parts: Parts, columns: int, start: int, stop: int) -> np.ndarray:
    """Rows `start` to `stop` of the weight, float32 [stop - start, columns]."""
    scales = read_part(parts["scales"], start, stop)
    steps = to_float32(scales.reshape(-1).view(np.uint8), "F8_E8M0").reshape(scales.shape)
    return _scaled(read_part(parts["codes"], start, stop), steps)


def read_nvfp4(layout: Nvfp4, parts: Parts, columns: int, start: int, stop: int) -> np.ndarray:
    """Rows `start` to `stop` of the weight, float32 [stop - start, columns]."""
    scales = read_part(parts["scales"], start, stop)
    steps = to_float32(scales.reshape(-1), "F8_E4M3").reshape(scales.shape)
    whole = read_floats(parts["whole"])
    if whole.size > 1:
        matrix = np.arange(start, stop) // (parts["codes"].rows // whole.size)
        whole = whole[matrix][:, None]
    x = _scaled(read_part(parts["codes"], start, stop), steps * whole)
    if "inputs" in parts:
        x *= read_floats(parts["inputs"])
    return x


def _scaled(codes: np.ndarray, steps: np.ndarray) -> np.ndarray:
    """uint8 [rows, columns / 2] and float32 [rows, groups] -> float32 [rows, columns]."""
    from qconvert.formats.safetensors.fp4 import VALUES

    pairs = np.stack([VALUES, VALUES])  # of each byte both values, the low one first
    table = np.stack([np.tile(pairs[0], 16), np.repeat(pairs[1], 16)], axis=1)
    x = table[codes.view(np.uint8)].reshape(len(codes), steps.shape[1], -1)
    x *= steps[:, :, None]
    return np.ascontiguousarray(x.reshape(len(codes), -1))
