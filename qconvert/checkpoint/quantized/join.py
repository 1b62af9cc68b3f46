"""The weights of quantized layers, each put together to one tensor."""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from qconvert.checkpoint.codes import CACHES, TURNED
from qconvert.checkpoint.foreign import ORIGINAL
from qconvert.checkpoint.quantized import awq, bitsandbytes, float4, gptq, mlx, modelopt
from qconvert.checkpoint.quantized.parts import Parts
from qconvert.checkpoint.types import TensorInfo
from qconvert.errors import CheckpointError, UnsupportedError

CODES = ("U8", "I8", "I32")


@dataclass(frozen=True)
class Method:
    """A library's way to store quantized layers.

    Attributes:
        endings: of the names of a layer's tensors.
        is_coded: whether such tensors are those of a quantized layer.
        join: name, tensors by ending, settings, whether the weight is [in, out] -> the weight.
        check: refuses settings of `quantization_config` that are not read.
        dropped: endings of what is told of inputs, which does not change what weights are.
    """

    endings: tuple[str, ...]
    is_coded: Callable[[Parts], bool]
    join: Callable[[str, Parts, Mapping[str, Any], bool], TensorInfo]
    check: Callable[[Mapping[str, Any]], None] = lambda settings: None
    dropped: tuple[str, ...] = ()


def _any(parts: Parts) -> bool:
    return True


METHODS: Mapping[str, Method] = {
    "gptq": Method(gptq.ENDINGS, _any, gptq.join, gptq.check_settings),
    "awq": Method(awq.ENDINGS, _any, awq.join, awq.check_settings),
    "bitsandbytes": Method(
        bitsandbytes.ENDINGS,
        bitsandbytes.is_coded,
        lambda stem, parts, settings, turned: bitsandbytes.join(stem, parts, turned),
    ),
    "mxfp4": Method(
        ("_blocks", "_scales"),
        _any,
        lambda stem, parts, settings, turned: float4.join_experts(stem, parts),
    ),
    "modelopt": Method(
        modelopt.ENDINGS,
        modelopt.is_coded,
        modelopt.join,
        dropped=(".input_scale", *(f".{name}" for name in CACHES)),
    ),
}
"""By `quant_method` of config.json."""

MLX = Method(mlx.ENDINGS, mlx.is_coded, mlx.join)
"""Whose config.json names no method."""


def method_of(quantization: Any) -> Method | None:
    """The method that a `quantization_config` names, where it is read here."""
    if not isinstance(quantization, dict):
        return None
    if mlx.is_mlx(quantization):
        return MLX
    return METHODS.get(str(quantization.get("quant_method")))


def join_quantized(
    tensors: Mapping[str, TensorInfo],
    config: Mapping[str, Any],
    quantization: Mapping[str, Any],
    method: Method,
) -> dict[str, TensorInfo]:
    """The tensors of a model, each weight one of them.

    Args:
        tensors: as they are stored.
        config: config.json.
        quantization: its `quantization_config`.

    Raises:
        CheckpointError: the tensors of a layer do not fit each other.
        UnsupportedError: a layer is stored in a way that is not read.
    """
    method.check(quantization)
    if beyond := next((name for name in tensors if name.endswith(modelopt.BEYOND)), None):
        raise UnsupportedError(f"{beyond} is added to a weight, and that is not read", ORIGINAL)
    turned = config.get("model_type") in TURNED
    layers = _layers(tensors, method)
    stems = {info.name: stem for stem, parts in layers.items() for info in parts.values()}
    found: dict[str, TensorInfo] = {}
    done: set[str] = set()
    for name, info in tensors.items():
        stem = stems.get(name)
        if stem is None:
            if not name.endswith(method.dropped):
                found[name] = info
        elif stem not in done:
            done.add(stem)
            joined = method.join(stem, layers[stem], quantization, turned)
            if joined.name in tensors and joined.name not in stems:
                raise CheckpointError(f"{joined.name!r:.200} is there twice, once quantized")
            found[joined.name] = joined
    _check_left(found.values())
    return found


def _layers(tensors: Mapping[str, TensorInfo], method: Method) -> dict[str, dict[str, TensorInfo]]:
    """By name, the tensors of each quantized layer by how they end."""
    endings = sorted(method.endings, key=len, reverse=True)
    layers: dict[str, dict[str, TensorInfo]] = {}
    for name, info in tensors.items():
        ending = next((ending for ending in endings if name.endswith(ending)), None)
        if ending is not None:
            layers.setdefault(name.removesuffix(ending), {})[ending] = info
    return {stem: parts for stem, parts in layers.items() if method.is_coded(parts)}


def _check_left(found: Iterable[TensorInfo]) -> None:
    """Refuse integers that would pass as a layer's numbers."""
    for info in found:
        coded = info.codes is None and info.dtype in CODES and len(info.shape) > 1
        if coded and info.name.endswith(".weight"):
            raise UnsupportedError(
                f"how {info.name} ({info.dtype}) is stored is not known", ORIGINAL
            )
