"""The quantized layers of a compressed-tensors checkpoint, told from their tensors.

`qconvert.formats.safetensors.types` has the table of names and shapes.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from qconvert.checkpoint.files import read_bytes_at
from qconvert.checkpoint.types import TensorInfo
from qconvert.formats.safetensors.types import ActivationFormat, Strategy, WeightFormat

PARTS = (
    "weight",
    "weight_packed",
    "weight_scale",
    "weight_shape",
    "weight_zero_point",
    "weight_global_scale",
    "input_scale",
    "input_zero_point",
    "input_global_scale",
)
STRATEGIES: Mapping[str, Strategy] = {
    "tensor": "tensor",
    "channel": "channel",
    "group": "group",
    "tensor_group": "group",
    "block": "block",
    "token": "token",
}
WORD = 32


@dataclass(frozen=True)
class Layer:
    """A quantized layer.

    Attributes:
        name: of the module.
        form: how its weight is stored.
        inputs: how its inputs are rounded; None leaves them.
        shape: of the weight, [out, in].
        parts: the names of its tensors.
        nbytes: of all of these.
    """

    name: str
    form: WeightFormat
    inputs: ActivationFormat | None
    shape: tuple[int, ...]
    parts: tuple[str, ...]
    nbytes: int

    @property
    def weights(self) -> int:
        return int(np.prod(self.shape, dtype=np.int64))


def find_layers(tensors: Mapping[str, TensorInfo], config: Mapping[str, Any]) -> tuple[Layer, ...]:
    """The quantized layers, in the order of the tensors.

    Args:
        config: `quantization_config`; what in it cannot be understood is passed over.
    """
    modules: dict[str, dict[str, TensorInfo]] = {}
    for name, tensor in tensors.items():
        module, _, part = name.rpartition(".")
        if part in PARTS:
            modules.setdefault(module, {})[part] = tensor
    groups = list(_groups(config))
    found = []
    for name, parts in modules.items():
        if "weight_scale" not in parts:
            continue
        stored = _form(parts, groups)
        if stored is not None:
            form, shape = stored
            names = tuple(tensor.name for tensor in parts.values())
            nbytes = sum(tensor.nbytes for tensor in parts.values())
            found.append(Layer(name, form, _inputs(form, groups), shape, names, nbytes))
    return tuple(found)


Group = tuple[Mapping[str, Any], Mapping[str, Any] | None]
"""What config.json says of weights and of inputs."""


def _groups(config: Mapping[str, Any]) -> Iterator[Group]:
    groups = config.get("config_groups")
    for group in groups.values() if isinstance(groups, dict) else ():
        if isinstance(group, dict) and isinstance(group.get("weights"), dict):
            inputs = group.get("input_activations")
            yield group["weights"], inputs if isinstance(inputs, dict) else None


def _form(
    parts: Mapping[str, TensorInfo], groups: list[Group]
) -> tuple[WeightFormat, tuple[int, ...]] | None:
    """How a weight is stored, and its shape; None where the tensors do not make one."""
    packed, weight = parts.get("weight_packed"), parts.get("weight")
    if packed is not None and len(packed.shape) == 2:
        return (_float4 if packed.dtype == "U8" else _packed)(parts, packed, groups)
    if weight is None or len(weight.shape) != 2 or weight.dtype not in ("I8", "F8_E4M3"):
        return None
    strategy, size = _sharing(parts["weight_scale"], weight.shape)
    block = _block(weight.shape, parts["weight_scale"].shape) if strategy == "block" else None
    symmetric = "weight_zero_point" not in parts
    if weight.dtype == "I8":
        bits = _bits_of_bytes(groups, strategy, size)
        form = WeightFormat("int-quantized", "int", bits, strategy, size, block, symmetric)
    else:
        form = WeightFormat("float-quantized", "float", 8, strategy, size, block, symmetric)
    return form, weight.shape


def _bits_of_bytes(groups: list[Group], strategy: Strategy, size: int | None) -> int:
    """Of integers in whole bytes, which need not use all of them: as config.json says of such."""
    for weights, _ in groups:
        alike = (weights.get("type"), weights.get("strategy")) == ("int", strategy)
        if alike and weights.get("group_size") in (size, None) and weights.get("num_bits") == 4:
            return 4
    return 8


def _float4(
    parts: Mapping[str, TensorInfo], packed: TensorInfo, groups: list[Group]
) -> tuple[WeightFormat, tuple[int, ...]]:
    """Two to a byte."""
    layout = "nvfp4" if "weight_global_scale" in parts else "mxfp4"
    shape = (packed.shape[0], 2 * packed.shape[1])
    size = shape[1] // max(parts["weight_scale"].columns, 1)
    return WeightFormat(f"{layout}-pack-quantized", "float", 4, "group", size), shape


def _packed(
    parts: Mapping[str, TensorInfo], packed: TensorInfo, groups: list[Group]
) -> tuple[WeightFormat, tuple[int, ...]] | None:
    """A stream of bits in words, of which `weight_shape` says where it ends."""
    rows, words = packed.shape
    said = [weights.get("num_bits") for weights, _ in groups]
    likely = [bits for bits in dict.fromkeys(said) if type(bits) is int and 1 < bits <= 8]
    columns = _columns(parts.get("weight_shape"))
    for bits in (*likely, *range(8, 1, -1)):
        if columns and -(-columns * bits // WORD) == words:
            break
    else:
        if not likely:
            return None
        bits, columns = likely[0], words * WORD // likely[0]
    shape = (rows, columns)
    strategy, size = _sharing(parts["weight_scale"], shape)
    symmetric = "weight_zero_point" not in parts
    form = WeightFormat("pack-quantized", "int", bits, strategy, size, symmetric=symmetric)
    return form, shape


def _columns(info: TensorInfo | None) -> int:
    """The second number of `weight_shape`; 0 where there is none, as in previews."""
    if info is None or info.dtype != "I64" or info.elements != 2:
        return 0
    data = read_bytes_at(info.path, info.offset, info.nbytes)
    columns = int(np.frombuffer(data, "<i8")[1]) if len(data) == info.nbytes else 0
    return columns if 0 < columns < 1 << 31 else 0


def _sharing(scale: TensorInfo, shape: tuple[int, ...]) -> tuple[Strategy, int | None]:
    """Which weights share a scale, and of groups how many."""
    rows, columns = shape
    if scale.elements == 1 and rows > 1:
        return "tensor", None
    if scale.elements == rows:
        return "channel", None
    if scale.shape == (columns, 1):
        return "channel", None  # GPT-2's layers are stored [in, out]
    if scale.rows == rows:
        return "group", columns // max(scale.columns, 1)
    return "block", None


def _block(shape: tuple[int, ...], scales: tuple[int, ...]) -> tuple[int, int] | None:
    """The least power of two that makes so many blocks."""
    if len(scales) != 2 or not all(scales):
        return None
    sizes = [
        next((1 << k for k in range(32) if -(-n // (1 << k)) <= count), n)
        for n, count in zip(shape, scales, strict=True)
    ]
    return sizes[0], sizes[1]


def _inputs(form: WeightFormat, groups: list[Group]) -> ActivationFormat | None:
    """What config.json says of the inputs of such weights."""
    for weights, inputs in groups:
        alike = weights.get("num_bits") == form.bits and weights.get("type") == form.type
        same = weights.get("strategy") in (form.strategy, None)
        if (
            alike
            and (same or len(groups) == 1)
            and weights.get("group_size") in (form.group_size, None)
        ):
            return _activation(inputs)
    return None


def _activation(inputs: Mapping[str, Any] | None) -> ActivationFormat | None:
    if inputs is None:
        return None
    bits, said = inputs.get("num_bits"), inputs.get("dynamic")
    dynamic: bool | Literal["local"] = "local" if said == "local" else bool(said)
    strategy = STRATEGIES.get(str(inputs.get("strategy")), "token" if dynamic else "tensor")
    return ActivationFormat(
        "float" if inputs.get("type") == "float" else "int",
        bits if type(bits) is int else 8,
        strategy,
        dynamic,
        inputs.get("symmetric") is not False,
    )
