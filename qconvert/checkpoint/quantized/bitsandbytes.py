"""bitsandbytes: codes of 4 bits with tables, and int8.

    X.weight                         u8 [n / 2, 1]    two codes to a byte, the high four bits first;
                                                      the same bytes may be called another dtype
    X.weight.quant_map               f32 [16]         what codes stand for
    X.weight.absmax                  f32 [n / block]  or u8, with:
    X.weight.nested_quant_map        f32 [256]
    X.weight.nested_absmax           f32 [n / block / nested block]
    X.weight.quant_state.bitsandbytes__nf4   u8, JSON: shape, blocksize, nested_offset, ...

    w = quant_map[code] * absmax        absmax = nested_quant_map[code] * nested_absmax + offset

    X.weight                         i8 [out, in]
    X.SCB                            f32 [out]        largest values of rows: w = code * SCB / 127

Source: bitsandbytes, functional.py (QuantState) and nn/modules.py; arXiv 2305.14314, 2208.07339.
"""

from collections.abc import Mapping
from dataclasses import replace
from math import isfinite, prod
from typing import Any

import numpy as np

from qconvert.checkpoint.files import parse_json
from qconvert.checkpoint.foreign import ORIGINAL
from qconvert.checkpoint.quantized.layouts import EightBit, FourBit
from qconvert.checkpoint.quantized.parts import (
    MISFIT,
    Parts,
    check_shape,
    check_size,
    matrix,
    need,
    read_flat,
    read_floats,
    read_part,
    weight,
)
from qconvert.checkpoint.types import TensorInfo
from qconvert.errors import CheckpointError, UnsupportedError

STATE = ".weight.quant_state.bitsandbytes__"
KINDS = ("nf4", "fp4")
ENDINGS = (
    ".weight",
    ".weight.absmax",
    ".weight.quant_map",
    ".weight.nested_absmax",
    ".weight.nested_quant_map",
    *(STATE + kind for kind in KINDS),
    ".SCB",
    ".weight_format",
)
PACKED = ("U8", "I8", "BF16", "F16", "F32")
"""What the bytes of codes may be called."""

MAX_STATE = 1 << 16
MAX_BLOCK = 1 << 20
PART_OF_127 = np.float32(1 / 127)


def is_coded(parts: Parts) -> bool:
    """Whether these are more than a plain weight."""
    return parts.keys() != {".weight"}


def join(stem: str, parts: Parts, turned: bool) -> TensorInfo:
    """A layer's weight.

    Raises:
        CheckpointError: its tensors do not fit each other.
        UnsupportedError: int8 in an order that belongs to one kind of GPU.
    """
    if ".SCB" in parts or ".weight_format" in parts:
        return _eight_bits(stem, parts, turned)
    kinds = [kind for kind in KINDS if STATE + kind in parts]
    if not kinds:
        raise CheckpointError(f"the tensor {stem + STATE + KINDS[0]!r:.200} is missing")
    return _four_bits(stem, parts, kinds[0], turned)


def _eight_bits(stem: str, parts: Parts, turned: bool) -> TensorInfo:
    codes, scales = need(parts, stem, ".weight", ("I8",)), need(parts, stem, ".SCB", ("F32",))
    shape = matrix(codes)
    if scales.elements != shape[0]:
        check_shape(scales, shape[:1])
    order = parts.get(".weight_format")
    if order is not None and order.elements == 1 and read_floats(order)[0] != 0:
        raise UnsupportedError(
            f"{codes.name} is stored in the order of one kind of GPU, and that is not read",
            ORIGINAL,
        )
    stored = {".weight": codes, ".SCB": scales}
    return weight(f"{stem}.weight", shape, EightBit(), stored, turned=turned)


def _four_bits(stem: str, parts: Parts, kind: str, turned: bool) -> TensorInfo:
    codes = need(parts, stem, ".weight", PACKED)
    table = need(parts, stem, ".weight.quant_map", ("F32",))
    state = _state(need(parts, stem, STATE + kind, ("U8",)))
    shape, block = _shape(state, stem), _block(state, "blocksize", stem)
    count = prod(shape)
    if table.elements != 16 or codes.nbytes != -(-count // 2):
        raise CheckpointError(
            f"{codes.name!r:.200} has {codes.nbytes} bytes, which are no {list(shape)} of 4 bits",
            MISFIT,
        )
    scales = need(parts, stem, ".weight.absmax", ("F32", "U8"))
    stored = {".weight": codes, "table": table, "scales": scales}
    if scales.elements != -(-count // block):
        check_shape(scales, (-(-count // block),))
    nested, offset = 0, 0.0
    if scales.dtype == "U8":
        nested = _block(state, "nested_blocksize", stem)
        offset = _number(state, "nested_offset", stem)
        stored["nested_table"] = need(parts, stem, ".weight.nested_quant_map", ("F32",))
        stored["nested"] = need(parts, stem, ".weight.nested_absmax", ("F32",))
        check_shape(stored["nested_table"], (256,))
        check_shape(stored["nested"], (-(-scales.elements // nested),))
    layout = FourBit(kind, block, nested, offset)
    return weight(f"{stem}.weight", shape, layout, stored, turned=turned)


def _state(info: TensorInfo) -> Mapping[str, Any]:
    """What the layer's JSON says."""
    if info.elements > MAX_STATE:
        raise CheckpointError(f"{info.name!r:.200} is too long: {info.elements} bytes")
    data = read_flat(info, 0, info.elements).tobytes()
    if not any(data):
        raise CheckpointError(
            f"{info.name!r:.200} is empty, and it says what shape the weight has",
            "headers alone do not tell it: download the checkpoint and name its directory",
        )
    state = parse_json(data, info.name)
    if not isinstance(state, dict):
        raise CheckpointError(f"{info.name!r:.200} is no JSON object")
    return state


def _shape(state: Mapping[str, Any], stem: str) -> tuple[int, ...]:
    shape = state.get("shape")
    if not isinstance(shape, list) or len(shape) < 2 or not all(type(n) is int for n in shape):
        raise CheckpointError(f"{stem}.weight: impossible shape {shape!r:.80}")
    check_size(f"{stem}.weight", tuple(shape))
    return tuple(shape)


def _block(state: Mapping[str, Any], key: str, stem: str) -> int:
    size = state.get(key)
    if type(size) is not int or not 0 < size <= MAX_BLOCK:
        raise CheckpointError(f"{stem}.weight: impossible {key}: {size!r:.40}")
    return size


def _number(state: Mapping[str, Any], key: str, stem: str) -> float:
    value = state.get(key)
    if not isinstance(value, int | float) or not isfinite(value):
        raise CheckpointError(f"{stem}.weight: impossible {key}: {value!r:.40}")
    return float(value)


def read_eight_bits(
    layout: EightBit, parts: Parts, columns: int, start: int, stop: int
) -> np.ndarray:
    """Rows `start` to `stop` of the weight, float32 [stop - start, columns]."""
    x = read_part(parts[".weight"], start, stop).astype(np.float32)
    x *= read_flat(parts[".SCB"], start, stop)[:, None]
    x *= PART_OF_127
    return x


def read_four_bits(
    layout: FourBit, parts: Parts, columns: int, start: int, stop: int
) -> np.ndarray:
    """Rows `start` to `stop` of the weight, float32 [stop - start, columns]."""
    first, last = start * columns, stop * columns
    if first == last:
        return np.empty((0, columns), np.float32)
    begin = first // 2
    packed = _bytes(parts[".weight"], begin, -(-last // 2))
    table: np.ndarray = read_floats(parts["table"])
    pairs = np.stack([np.repeat(table, 16), np.tile(table, 16)], axis=1)
    x: np.ndarray = pairs[packed].reshape(-1)[first - 2 * begin : last - 2 * begin]
    scales = _scales(layout, parts, first // layout.block, -(-last // layout.block))
    counts = np.full(len(scales), layout.block)
    counts[-1] -= -last % layout.block
    counts[0] -= first % layout.block
    x *= np.repeat(scales, counts)
    return x.reshape(stop - start, columns)


def _bytes(info: TensorInfo, start: int, stop: int) -> np.ndarray:
    """Bytes of a tensor, whatever its dtype is called."""
    return read_flat(replace(info, dtype="U8", shape=(info.nbytes,)), start, stop)


def _scales(layout: FourBit, parts: Parts, start: int, stop: int) -> np.ndarray:
    """What the weights of runs `start` to `stop` are multiplied with, float32."""
    stored = read_flat(parts["scales"], start, stop)
    if not layout.nested_block:
        return stored
    outer = read_floats(parts["nested"])[np.arange(start, stop) // layout.nested_block]
    scales: np.ndarray = read_floats(parts["nested_table"])[stored] * outer
    scales += np.float32(layout.offset)
    return scales
