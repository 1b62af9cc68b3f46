"""GPTQ: integers packed along the inputs.

    qweight   i32 [in * bits / 32, out]        a stream of codes down each column, low bits first
    qzeros    i32 [groups, out * bits / 32]    a stream of zero points along each row
    scales    f16, bf16, f32 [groups, out]
    g_idx     i32 [in]                         the group of each input; may be left out or empty

    w[out, in] = (code - zero) * scale

The first version of the format stores zero points less one, within their bits.
Source: GPTQModel, utils/model_dequant.py and nn_modules/qlinear; arXiv 2210.17323.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from qconvert.checkpoint.foreign import ORIGINAL
from qconvert.checkpoint.quantized.layouts import Gptq
from qconvert.checkpoint.quantized.parts import (
    FLOATS,
    MISFIT,
    Parts,
    check_shape,
    check_size,
    matrix,
    need,
    read_columns,
    read_part,
    weight,
)
from qconvert.checkpoint.types import TensorInfo
from qconvert.errors import CheckpointError, UnsupportedError
from qconvert.formats.floats import to_float32

ENDINGS = (".qweight", ".qzeros", ".scales", ".g_idx")
FIRST = ".qweight"
BITS = (2, 3, 4, 8)
SHIFTS = {"gptq": 1, "gptq_v2": 0}
"""What the versions of the format add to zero points."""


def check_settings(quantization: Mapping[str, Any]) -> None:
    """Refuse what lies in another way under the same names."""
    version = _version(quantization)
    if version not in SHIFTS:
        raise UnsupportedError(f"the GPTQ format {version!r:.60} is not read", ORIGINAL)
    if quantization.get("pack_dtype", "int32") not in ("int32", None):
        raise UnsupportedError("GPTQ's codes are not packed in words of 32 bits", ORIGINAL)
    size = quantization.get("group_size", -1)
    if type(size) is not int or (size < 1 and size != -1):
        raise CheckpointError(f"config.json: impossible group_size: {size!r:.40}")


def _version(quantization: Mapping[str, Any]) -> Any:
    return quantization.get("checkpoint_format") or quantization.get("format") or "gptq"


def join(stem: str, parts: Parts, quantization: Mapping[str, Any], turned: bool) -> TensorInfo:
    """A layer's weight.

    Raises:
        CheckpointError: its tensors do not fit each other.
        UnsupportedError: codes of so many bits are not read.
    """
    qweight = need(parts, stem, ".qweight", ("I32",))
    qzeros = need(parts, stem, ".qzeros", ("I32",))
    scales = need(parts, stem, ".scales", FLOATS)
    (words, outputs), (groups, _) = matrix(qweight), matrix(scales)
    check_shape(scales, (groups, outputs))
    bits = _bits(qzeros, groups, outputs, quantization)
    inputs, rest = divmod(words * 32, bits)
    if rest:
        raise CheckpointError(f"{qweight.name!r:.200}: {words} words are no rows of {bits} bits")
    if ".g_idx" in parts and not parts[".g_idx"].elements:
        parts = {ending: info for ending, info in parts.items() if ending != ".g_idx"}
    if ".g_idx" in parts:
        check_shape(need(parts, stem, ".g_idx", ("I32",)), (inputs,))
    check_size(stem, (outputs, inputs))
    size = -(-inputs // groups)
    wanted = quantization.get("group_size", -1)
    if wanted > 0 and -(-inputs // wanted) == groups:
        size = wanted
    if -(-inputs // size) != groups:
        raise CheckpointError(
            f"{scales.name!r:.200}: {groups} groups do not divide rows of {inputs} weights", MISFIT
        )
    shift = SHIFTS[_version(quantization)]
    stored = {ending: parts[ending] for ending in ENDINGS if ending in parts}
    return weight(
        f"{stem}.weight", (outputs, inputs), Gptq(bits, size, shift), stored, turned=turned
    )


def _bits(qzeros: TensorInfo, groups: int, outputs: int, quantization: Mapping[str, Any]) -> int:
    """Of a code, by the size of the zero points: single layers may have other bits than most."""
    said = quantization.get("bits")
    rows, words = matrix(qzeros)
    fitting = [bits for bits in BITS if rows == groups and -(-outputs * bits // 32) == words]
    if not fitting:
        raise CheckpointError(
            f"{qzeros.name!r:.200} has shape {list(qzeros.shape)}, which fits no zero points of "
            f"{groups} groups of {outputs} outputs",
            MISFIT,
        )
    return said if said in fitting else fitting[0]


@dataclass(frozen=True)
class _Groups:
    """Which inputs share a scale.

    Attributes:
        size: how many, where they do so in their order; else 0.
        of_input: int64 [in], the group of each.
    """

    size: int
    of_input: np.ndarray


def read(layout: Gptq, parts: Parts, columns: int, start: int, stop: int) -> np.ndarray:
    """Rows `start` to `stop` of the weight, float32 [stop - start, columns].

    Raises:
        CheckpointError: g_idx names a group that is not there.
    """
    from qconvert.formats.safetensors.packing import unpack_rows
    from qconvert.kernels import integers

    bits, scales = layout.bits, parts[".scales"]
    # Codes and zero points have half of their range subtracted alike: the difference stays.
    words = read_columns(parts[".qweight"], start, stop)
    codes = unpack_rows(np.ascontiguousarray(words.T), bits, columns)
    step = 32 // int(np.gcd(bits, 32))
    first, last = start // step * step, min(-(-stop // step) * step, scales.columns)
    packed = read_columns(parts[".qzeros"], first * bits // 32, -(-last * bits // 32))
    zeros = unpack_rows(packed, bits, last - first)[:, start - first : stop - first]
    zeros = _shifted(zeros, bits, layout.shift).astype(np.float32).T
    stored = read_columns(scales, start, stop)
    factors = to_float32(stored.reshape(-1).view(np.uint8), scales.dtype)
    factors = factors.reshape(stored.shape).T
    groups = _groups(layout, parts, columns)
    x = np.empty((stop - start, columns), np.float32)
    if groups.size:
        steps = np.ascontiguousarray(factors).reshape(-1), np.ascontiguousarray(zeros).reshape(-1)
        integers.dequantize(codes.reshape(-1), columns, groups.size, *steps, x.reshape(-1))
        return x
    np.subtract(codes, zeros[:, groups.of_input], out=x)
    x *= factors[:, groups.of_input]
    return x


def _shifted(zeros: np.ndarray, bits: int, shift: int) -> np.ndarray:
    """Zero points with half of their range subtracted, `shift` higher; after the highest comes the
    least."""
    half, mask = 1 << (bits - 1), (1 << bits) - 1
    return ((zeros.astype(np.int16) + half + shift) & mask) - half


def _groups(layout: Gptq, parts: Parts, columns: int) -> _Groups:
    regular = np.arange(columns) // layout.group_size
    if ".g_idx" not in parts:
        return _Groups(layout.group_size, regular)
    groups = parts[".scales"].rows
    found = read_part(parts[".g_idx"]).reshape(-1).astype(np.int64)
    if found.min() < 0 or found.max() >= groups:
        raise CheckpointError(
            f"{parts['.g_idx'].name!r:.200} names a group that is not there: there are {groups}"
        )
    return _Groups(layout.group_size if np.array_equal(found, regular) else 0, found)
