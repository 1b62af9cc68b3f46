"""fp8 weights and the scales beside them.

A weight `X` of F8_E4M3 or F8_E5M2 comes with a scale that it is multiplied with:

    X_scale_inv    DeepSeek V3, transformers: of a block of 128 x 128
    X_scale        of the tensor, of a row, a column or a block
    Y.scale        DeepSeek V4, where X is Y.weight: powers of two
    Y.scale_weight of the tensor

Scales of one byte are powers of two (e8m0), whatever their dtype is called. With such, weights may
be floats of 4 bits, two to a byte (`qconvert.checkpoint.quantized.float4`).
Source: transformers, integrations/finegrained_fp8.py and fbgemm_fp8.py.
"""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from qconvert.checkpoint.codes import CACHES, has_codes
from qconvert.checkpoint.dtypes import FP8
from qconvert.checkpoint.foreign import ORIGINAL
from qconvert.checkpoint.quantized.float4 import join_mxfp4
from qconvert.checkpoint.quantized.join import method_of
from qconvert.checkpoint.types import TensorInfo
from qconvert.errors import CheckpointError, UnsupportedError

FLOAT_METHODS = ("fp8", "fbgemm_fp8")
SUFFIXES = ("_scale_inv", "_scale")
OWN = (".scale", ".scale_weight")
"""What stands in the place of ".weight"."""

POWERS = ("F8_E8M0", "U8")
NIBBLES = ("I8", "U8")
BLOCKS = (16, 32, 64, 128, 256)
# Scales of activations: they do not change what the weights are.
ACTIVATION = (
    *(".input_scale", ".activation_scale", "_activation_scale", ".input_scale_ub", ".scale_input"),
    *(f".{name}" for name in CACHES),
)


def check_method(quantization: Any) -> None:
    """Refuse sources whose weights are integer codes.

    Args:
        quantization: `quantization_config` of config.json, or None.

    Raises:
        UnsupportedError: weights that cannot be read back here.
        CheckpointError: it is no object.
    """
    if quantization is None:
        return
    if not isinstance(quantization, dict):
        raise CheckpointError("config.json: quantization_config is not an object")
    method = quantization.get("quant_method")
    if method in FLOAT_METHODS or has_codes(quantization) or method_of(quantization):
        return
    layout = quantization.get("format")
    kind = f"{method!r:.60}" + (f", {layout!r:.60}" if isinstance(layout, str) else "")
    raise UnsupportedError(
        f"the checkpoint is already quantized ({kind}), and that is not read",
        f"{ORIGINAL}; `qconvert inspect` shows what this one is",
    )


def attach_scales(tensors: Mapping[str, TensorInfo], quantization: Any) -> dict[str, TensorInfo]:
    """Give each fp8 weight its scale, and leave out the scales as tensors of their own.

    Args:
        tensors: by name.
        quantization: `quantization_config` of config.json, or None.

    Raises:
        CheckpointError: a scale is missing or its shape does not fit.
    """
    block = _block_size(quantization)
    result, used = {}, set()
    for name, tensor in tensors.items():
        scale = _scale_of(name, tensors) if tensor.dtype in (*FP8, *NIBBLES) else None
        if scale is not None and tensor.dtype in FP8:
            used.add(scale.name)
            result[name] = _with_scale(tensor, scale, block)
        elif scale is not None and scale.dtype in POWERS and len(tensor.shape) > 1:
            used.add(scale.name)
            result[name] = join_mxfp4(name, tensor, scale)
        elif tensor.dtype in FP8 and quantization is not None:
            raise CheckpointError(f"the fp8 tensor {name!r:.200} has no scale beside it")
        else:
            result[name] = tensor
    return {
        name: tensor
        for name, tensor in result.items()
        if name not in used and not (used and name.endswith(ACTIVATION))
    }


def _scale_of(name: str, tensors: Mapping[str, TensorInfo]) -> TensorInfo | None:
    names = [name + suffix for suffix in SUFFIXES]
    if name.endswith(".weight"):
        names += [name.removesuffix(".weight") + suffix for suffix in OWN]
    return next((tensors[name] for name in names if name in tensors), None)


def _block_size(quantization: Any) -> tuple[int, int]:
    block = (quantization or {}).get("weight_block_size") or [128, 128]
    if (
        not isinstance(block, list)
        or len(block) != 2
        or not all(type(value) is int and 0 < value < 1 << 31 for value in block)
    ):
        raise CheckpointError(f"config.json: impossible weight_block_size: {block!r:.80}")
    return block[0], block[1]


def _with_scale(tensor: TensorInfo, scale: TensorInfo, block: tuple[int, int]) -> TensorInfo:
    if scale.strides is not None or tensor.strides is not None:
        raise UnsupportedError(f"the fp8 tensor {tensor.name!r:.200} is stored transposed")
    if scale.dtype == "U8":
        scale = replace(scale, dtype="F8_E8M0")
    *outer, rows, columns = (1, *tensor.shape) if len(tensor.shape) == 1 else tensor.shape
    blocks = (*outer, -(-rows // block[0]), -(-columns // block[1]))
    ones = (*outer, 1, 1)
    if scale.name.endswith("_inv") and scale.shape == blocks:
        return replace(tensor, scale=scale, block=block)
    if scale.shape in ((), (1,), (1, 1)) and not outer:
        return replace(tensor, scale=replace(scale, shape=(1, 1)), block=(max(rows, 1), columns))
    if scale.shape in ((*outer, rows, 1), (*outer, rows)):
        return replace(tensor, scale=replace(scale, shape=(*outer, rows, 1)), block=(1, columns))
    if scale.shape == blocks:
        return replace(tensor, scale=scale, block=block)
    if outer and scale.shape in (ones, ones[:-1], ones[:-2]):
        return replace(tensor, scale=replace(scale, shape=ones), block=(max(rows, 1), columns))
    if scale.shape == (*outer, 1, columns):
        return replace(tensor, scale=scale, block=(max(rows, 1), 1))
    if derived := _derived_block((*outer, rows, columns), scale.shape):
        return replace(tensor, scale=scale, block=derived)
    raise CheckpointError(
        f"the scale {scale.name!r:.200} of shape {list(scale.shape)} does not fit its weight "
        f"of shape {list(tensor.shape)}"
    )


def _derived_block(shape: tuple[int, ...], scales: tuple[int, ...]) -> tuple[int, int] | None:
    """The block of scales in another number than config.json says, where it is a usual one: some
    layers of a model have blocks of their own (experts, MXFP8's rows of 32)."""
    if len(scales) != len(shape) or scales[:-2] != shape[:-2] or not all(scales):
        return None
    height, width = (size // count for size, count in zip(shape[-2:], scales[-2:], strict=True))
    whole = (height * scales[-2], width * scales[-1]) == shape[-2:]
    return (height, width) if whole and height in (1, width) and width in BLOCKS else None
