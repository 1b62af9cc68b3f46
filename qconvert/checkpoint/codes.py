"""Weights that compressed-tensors stores as codes and scales, put together to one tensor each.

How a layer is stored is read off its tensors (`qconvert.checkpoint.layers`); what is told of its
inputs does not change what its weights are, and is left out.
"""

from collections.abc import Mapping
from dataclasses import replace
from math import prod
from typing import Any

from qconvert.checkpoint.foreign import ORIGINAL, UNGATHERED
from qconvert.checkpoint.layers import PARTS, Layer, find_layers
from qconvert.checkpoint.rows import NUMPY, read_rows
from qconvert.checkpoint.types import Codes, TensorInfo
from qconvert.errors import CheckpointError, QconvertError, UnsupportedError
from qconvert.formats.types import Part

METHOD = "compressed-tensors"
TURNED = ("gpt2",)
"""Families whose linear layers are stored [in, out]."""

INPUTS = ("input_scale", "input_zero_point", "input_global_scale")
CACHES = ("k_scale", "v_scale", "q_scale", "k_zero_point", "v_zero_point", "output_scale")
SCALES = ("BF16", "F16", "F32")
LAYOUTS = (
    "dense",
    "int-quantized",
    "naive-quantized",
    "float-quantized",
    "pack-quantized",
    "nvfp4-pack-quantized",
    "mxfp4-pack-quantized",
    "mixed-precision",
)


def has_codes(quantization: Any) -> bool:
    """Whether `quantization_config` of config.json names layouts that are read here."""
    if not isinstance(quantization, dict) or quantization.get("quant_method") != METHOD:
        return False
    sparsity = quantization.get("sparsity_config")
    dense = not isinstance(sparsity, dict) or sparsity.get("format") in (None, "dense")
    return dense and quantization.get("format") in LAYOUTS


def join_codes(
    tensors: Mapping[str, TensorInfo], config: Mapping[str, Any], quantization: Mapping[str, Any]
) -> dict[str, TensorInfo]:
    """The tensors of a model, each weight one of them, as Hugging Face would store it plain.

    Args:
        tensors: as they are stored.
        config: config.json.
        quantization: its `quantization_config`.

    Raises:
        UnsupportedError: a weight is stored in a way that is not read.
        CheckpointError: the tensors of a weight do not fit each other.
    """
    turned = config.get("model_type") in TURNED
    tensors = {name: info for name, info in tensors.items() if not _is_no_order(info)}
    upright = {name: _upright(info) if turned else info for name, info in tensors.items()}
    layers = {part: layer for layer in find_layers(upright, quantization) for part in layer.parts}
    found: dict[str, TensorInfo] = {}
    for name, info in tensors.items():
        layer = layers.get(name)
        stem, _, last = name.rpartition(".")
        if layer is not None:
            weight = f"{layer.name}.weight"
            if weight not in found:
                found[weight] = _join(layer, tensors, upright, turned)
        elif last == "weight_g_idx":
            raise UnsupportedError(
                f"{stem}.weight is stored with its columns in another order (g_idx), and that is "
                "not read",
                ORIGINAL,
            )
        elif last in PARTS and last not in ("weight", *INPUTS):
            _check_filled(stem, tensors)
            raise UnsupportedError(f"how {stem}.weight is stored is not known", ORIGINAL)
        elif last not in (*INPUTS, *CACHES):
            found[name] = info
    return found


def _is_no_order(info: TensorInfo) -> bool:
    """Whether this is an order of columns that says nothing: they are as they were."""
    return info.name.endswith(".weight_g_idx") and not info.elements


def _check_filled(layer: str, tensors: Mapping[str, TensorInfo]) -> None:
    """Codes or scales without elements are none of any kind."""
    for name in (f"{layer}.{part}" for part in PARTS):
        if name in tensors and not tensors[name].elements:
            raise CheckpointError(
                f"{name} is empty (shape {list(tensors[name].shape)})", UNGATHERED
            )


def _upright(info: TensorInfo) -> TensorInfo:
    """A weight that lies [in, out], as if it were [out, in]: only its shape is looked at."""
    if info.dtype in ("I8", "F8_E4M3") and info.name.endswith(".weight") and len(info.shape) == 2:
        return replace(info, shape=info.shape[::-1])
    return info


def _join(
    layer: Layer,
    tensors: Mapping[str, TensorInfo],
    upright: Mapping[str, TensorInfo],
    turned: bool,
) -> TensorInfo:
    from qconvert.formats.safetensors.layouts import format_of

    _check_filled(layer.name, tensors)
    if len(layer.shape) != 2 or 0 in layer.shape:
        raise UnsupportedError(f"how {layer.name}.weight is stored is not known", ORIGINAL)
    rows, columns = layer.shape
    try:
        wanted = format_of(layer.form).parts((rows, columns))
    except QconvertError as error:
        raise UnsupportedError(f"{layer.name}: {error.message}", ORIGINAL) from error
    parts = {}
    for part in wanted:
        name = f"{layer.name}.{part.suffix}"
        if name not in upright:
            raise CheckpointError(f"the tensor {name!r:.200} is missing")
        if part.suffix == "weight_shape":
            _check_shape(upright[name], (rows, columns))
            continue
        _check(upright[name], part)
        shape = part.shape
        if turned and part.suffix == "weight":
            shape = tensors[name].shape
        parts[part.suffix] = replace(tensors[name], shape=shape)
    first = next(iter(parts.values()))
    shape = (columns, rows) if turned else (rows, columns)
    return TensorInfo(
        f"{layer.name}.weight",
        shape,
        layer.form.layout,
        first.path,
        first.offset,
        first.nbytes,
        codes=Codes(layer.form, parts, turned),
    )


def _check_shape(info: TensorInfo, shape: tuple[int, int]) -> None:
    """Refuse a stored shape that the codes do not have."""
    values = read_rows(info, 0, info.rows).reshape(-1) if info.elements == 2 else ()
    if tuple(int(value) for value in values) != shape:
        raise CheckpointError(f"{info.name!r:.200} is not {list(shape)}, as its codes are")


def _check(info: TensorInfo, part: Part) -> None:
    """Refuse a part whose shape or type cannot be right."""
    # Scales of a row are [rows] or [rows, 1]; those of a tensor [] or [1].
    fits = info.elements == prod(part.shape) and info.strides is None
    if len(info.shape) == len(part.shape):
        fits = fits and info.shape == part.shape
    same = info.dtype == part.dtype or (part.dtype == "F32" and info.dtype in SCALES)
    if part.suffix == "weight_scale" and part.dtype == "U8":
        same = info.dtype in ("U8", "F8_E8M0")
    if not fits or not same or info.dtype not in NUMPY:
        raise CheckpointError(
            f"{info.name!r:.200} is {info.dtype} {list(info.shape)}, and {part.dtype} "
            f"{list(part.shape)} fits its weight",
            "the file may be of another layout than config.json says",
        )
