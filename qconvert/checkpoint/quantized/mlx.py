"""MLX: weights as integers or small floats in groups of a row.

    affine    weight u32 [out, in * bits / 32]   scales, biases f16, bf16, f32 [out, groups]
    floats    weight u32 [out, in * bits / 32]   scales u8 [out, groups]

`quantization` of config.json says bits, groups and mode, and by name those of layers that differ.
The formats are those that are written: `qconvert.formats.mlx`.
Source: mlx-lm, utils (`quantize_model`, `load_model`).
"""

from collections.abc import Mapping
from typing import Any

import numpy as np

from qconvert.checkpoint.foreign import ORIGINAL
from qconvert.checkpoint.quantized.layouts import Mlx
from qconvert.checkpoint.quantized.parts import (
    FLOATS,
    MISFIT,
    Parts,
    check_size,
    matrix,
    need,
    weight,
)
from qconvert.checkpoint.types import TensorInfo
from qconvert.errors import CheckpointError, PlanError, UnsupportedError
from qconvert.formats.mlx.affine import Affine
from qconvert.formats.mlx.floats import BITS, GROUPS, Floats
from qconvert.formats.types import Format

ENDINGS = (".weight", ".scales", ".biases")
AFFINE = "affine"


def is_coded(parts: Parts) -> bool:
    return ".scales" in parts


def is_mlx(quantization: Any) -> bool:
    """Whether settings are MLX's, which name no method."""
    named = isinstance(quantization, dict) and "quant_method" not in quantization
    return named and {"bits", "group_size"} <= quantization.keys()


def join(stem: str, parts: Parts, quantization: Mapping[str, Any], turned: bool) -> TensorInfo:
    """A layer's weight.

    Raises:
        CheckpointError: its tensors do not fit each other, or what config.json says of them.
        UnsupportedError: such a layer is not read.
    """
    own = quantization.get(stem)
    layout = _layout(stem, own if isinstance(own, Mapping) else quantization)
    endings = ENDINGS if layout.mode == AFFINE else ENDINGS[:2]
    stored = {ending: parts[ending] for ending in endings if ending in parts}
    words = need(parts, stem, ".weight", ("U32",))
    scales = need(parts, stem, ".scales", FLOATS if layout.mode == AFFINE else ("U8",))
    if turned or len(words.shape) != 2:
        raise UnsupportedError(
            f"{stem} is stored for MLX in another shape than transformers has it", ORIGINAL
        )
    rows, width = matrix(words)
    columns, rest = divmod(width * 32, layout.bits)
    check_size(stem, (rows, columns))
    try:
        wanted = _format(layout, scales.dtype).parts((rows, columns))
    except PlanError as error:
        raise CheckpointError(f"{stem}: {error.message}", MISFIT) from error
    shapes = [(ending[1:], info.shape) for ending, info in stored.items()]
    if rest or shapes != [(part.suffix, part.shape) for part in wanted]:
        raise CheckpointError(f"{stem}: its tensors do not fit each other", MISFIT)
    return weight(f"{stem}.weight", (rows, columns), layout, stored)


def _layout(stem: str, said: Mapping[str, Any]) -> Mlx:
    mode, bits, size = said.get("mode", AFFINE), said.get("bits"), said.get("group_size")
    known = mode == AFFINE or (mode in BITS and (bits, size) == (BITS[mode], GROUPS[mode]))
    if not known or type(bits) is not int or type(size) is not int:
        raise UnsupportedError(
            f"{stem}: MLX's mode {mode!r:.20} with {bits!r:.20} bits in groups of {size!r:.20} is "
            "not read",
            ORIGINAL,
        )
    return Mlx(mode, bits, size)


def _format(layout: Mlx, scales: str) -> Format:
    if layout.mode == AFFINE:
        return Affine(layout.bits, layout.group_size, scales)  # type: ignore[arg-type]
    return Floats(layout.mode, "F32")  # type: ignore[arg-type]


def read(layout: Mlx, parts: Parts, columns: int, start: int, stop: int) -> np.ndarray:
    """Rows `start` to `stop` of the weight, float32 [stop - start, columns]."""
    from qconvert.checkpoint.rows import NUMPY, read_bytes

    views = {**NUMPY, "U32": np.uint32}
    arrays = tuple(
        read_bytes(info, start, stop).view(views[info.dtype]).reshape(stop - start, -1)
        for info in parts.values()
    )
    return _format(layout, parts[".scales"].dtype).dequantize(arrays)
