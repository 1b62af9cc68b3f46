"""Quantized safetensors at a glance: what is stored how, what is not quantized, what loads it.

How a layer is stored is read off its tensors (`qconvert.formats.safetensors.types` has the
table), for names in config.json are patterns that somebody else wrote; of inputs only config.json
tells.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from qconvert.checkpoint import Checkpoint, TensorInfo
from qconvert.checkpoint.huggingface import quantization_of, read_config, read_weights
from qconvert.checkpoint.layers import Layer, find_layers
from qconvert.checkpoint.safetensors import read_metadata, read_safetensors
from qconvert.errors import QconvertError
from qconvert.formats.safetensors.types import ActivationFormat, WeightFormat
from qconvert.inspection.checkpoint import Inspection, look_at
from qconvert.inspection.tensors import dtypes_of
from qconvert.plan.safetensors.schemes import Scheme

if TYPE_CHECKING:
    from qconvert.model.open import Model

METHOD, MLX = "compressed-tensors", "mlx"
OWN = "qconvert."
"""How the keys begin that say what made a file."""

Kind = tuple[WeightFormat, ActivationFormat | None]


@dataclass(frozen=True)
class Quantized:
    """A directory of quantized safetensors, or one file of it.

    Attributes:
        config: its `quantization_config`.
        tensors: as they are stored.
        layers: those that are quantized.
        model: what it is without regard to how it is stored.
        made_by: what made it, where it says so.
        loads_in: what runs it, as far as that is known.
        misfit: why transformers does not run it as it stands; empty where it does, or where that
            is not known.
        problems: what could not be told.
    """

    source: str
    path: Path
    config: Mapping[str, Any]
    tensors: Mapping[str, TensorInfo]
    layers: tuple[Layer, ...]
    model: Inspection
    made_by: Mapping[str, str]
    loads_in: tuple[str, ...]
    misfit: str
    problems: tuple[str, ...]

    @property
    def method(self) -> str:
        return _method(self.config)

    @property
    def nbytes(self) -> int:
        """Of all tensors."""
        return sum(tensor.nbytes for tensor in self.tensors.values())

    @property
    def bits_per_weight(self) -> float | None:
        """Bits of tensor data over weights, where these are known."""
        known = self.method == METHOD and self.model.parameters
        return 8 * self.nbytes / self.model.parameters if known else None

    @cached_property
    def kinds(self) -> dict[Kind, list[Layer]]:
        """Layers by how they are stored and run, the most bytes first."""
        found: dict[Kind, list[Layer]] = {}
        for layer in self.layers:
            found.setdefault((layer.form, layer.inputs), []).append(layer)
        order = sorted(found, key=lambda kind: -sum(layer.nbytes for layer in found[kind]))
        return {kind: found[kind] for kind in order}

    @cached_property
    def kept(self) -> tuple[TensorInfo, ...]:
        """Matrices that are not quantized."""
        parts = {part for layer in self.layers for part in layer.parts}
        if self.method == MLX:
            stems = [
                name.removesuffix("scales") for name in self.tensors if name.endswith(".scales")
            ]
            parts |= {stem + part for stem in stems for part in ("weight", "scales", "biases")}
        return tuple(
            tensor
            for tensor in self.tensors.values()
            if tensor.name not in parts and len(tensor.shape) > 1
        )

    @cached_property
    def dtypes(self) -> dict[str, tuple[int, int]]:
        """Tensors and bytes by dtype, the most bytes first."""
        return dtypes_of(self.tensors.values())


def look_at_quantized(source: str, path: Path) -> Quantized:
    """Inspect a directory, or one safetensors file with its config.json beside it.

    Raises:
        CheckpointError: it cannot be read or cannot be trusted.
    """
    folder = path if path.is_dir() else path.parent
    model_config = read_config(folder)
    config = quantization_of(model_config)
    tensors = read_weights(path) if path.is_dir() else read_safetensors(path)
    problems: tuple[str, ...] = ()
    layers: tuple[Layer, ...] = ()
    if config.get("quant_method") == METHOD:
        layers = find_layers(tensors, config)
    elif _method(config) == MLX:
        problems = ("of weights that MLX stores, no more is told; mlx-lm and LM Studio run them",)
    else:
        problems = (f"how {config.get('quant_method')!r:.60} stores weights is not known here",)
    plain = _plain(source, folder, model_config, tensors, layers)
    known = _known(plain)
    if known is None and layers:
        # Packed codes are [out, in], even of layers that GPT-2 stores [in, out].
        turned = tuple(replace(layer, shape=layer.shape[::-1]) for layer in layers)
        other = _plain(source, folder, model_config, tensors, turned)
        known = _known(other)
        plain = other if known else plain
    model = look_at(plain, ())
    files = dict.fromkeys(tensor.path for tensor in tensors.values())
    own = read_metadata(next(iter(files))) if files and path.suffix != ".bin" else {}
    return Quantized(
        source,
        path,
        config,
        tensors,
        layers,
        model,
        {key: value for key, value in own.items() if key.startswith(OWN)},
        *(_loads_in(known, layers) if known and layers else ((), "")),
        problems,
    )


def _method(config: Mapping[str, Any]) -> str:
    """As `quantization_config` names it; MLX's names none."""
    is_mlx = "quant_method" not in config and {"bits", "group_size"} <= config.keys()
    return MLX if is_mlx else str(config.get("quant_method", "unknown"))


def _plain(
    source: str,
    folder: Path,
    config: Mapping[str, Any],
    tensors: Mapping[str, TensorInfo],
    layers: tuple[Layer, ...],
) -> Checkpoint:
    """The checkpoint as it would be were its layers not quantized."""
    parts = {part: layer for layer in layers for part in layer.parts}
    found: dict[str, TensorInfo] = {}
    for name, tensor in tensors.items():
        layer = parts.get(name)
        if layer is None:
            found[name] = tensor
        else:
            weight = f"{layer.name}.weight"
            plain = replace(tensor, name=weight, shape=layer.shape, dtype="BF16", nbytes=0)
            found.setdefault(weight, plain)
    bare = {key: value for key, value in config.items() if key != "quantization_config"}
    return Checkpoint("huggingface", source, folder, config=bare, tensors=found)


def _known(plain: Checkpoint) -> "Model | None":
    """The model, if it is of a known family and all there."""
    from qconvert.model.open import open_model

    try:
        return open_model(plain)
    except QconvertError:
        return None


def _loads_in(model: "Model", layers: tuple[Layer, ...]) -> tuple[tuple[str, ...], str]:
    """What the program says of such a directory when it writes one, and the misfit."""
    from qconvert.plan.safetensors.choices import Choice
    from qconvert.plan.safetensors.notices import loads_in, misfit

    by_name = {f"{layer.name}.weight": layer for layer in layers}
    choices = []
    for weight in model.weights:
        layer = by_name.get(weight.name)
        scheme = Scheme("", layer.form, layer.inputs) if layer else None
        choices.append(Choice(weight, scheme, scheme))
    return loads_in(model, choices), misfit(choices, model.family)
