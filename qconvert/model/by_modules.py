"""Models of classes that have no family here, for directories of safetensors alone: which weights
are linear layers is asked of transformers' own modules, by whose names the checkpoint has them.

Only layers within numbered blocks are taken. Heads, poolers, tables and routers stay as they are.
"""

import re
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

from qconvert.checkpoint import Checkpoint
from qconvert.checkpoint.metadata import Metadata
from qconvert.errors import CheckpointError, UnsupportedError, first_line, shorten
from qconvert.model.families import BY_CLASS, nearest
from qconvert.model.families.parts.common import MOST_BLOCKS
from qconvert.model.families.refused import LLAMA_CPP_ALONE, why_refused
from qconvert.model.families.wrapped import OUTER
from qconvert.model.mapping import EMBEDDING, OUTPUT, OUTPUT_WEIGHT
from qconvert.model.open import Model
from qconvert.model.quiet import quiet_transformers
from qconvert.model.shapes import empty_tensor
from qconvert.model.types import Config, Family, Rows, Rule, TensorMap

ROUTERS = ("gate", "router", "wg")
"""The last part of a router's name: what it loses changes the expert."""

_IN_BLOCK = re.compile(r"\.\d+\.")


def has_family(config: Config) -> bool:
    """Whether the class in `config.json` has a family here."""
    names = config.get("architectures")
    return not isinstance(names, list) or not names or names[0] in (*BY_CLASS, *OUTER)


def open_by_modules(checkpoint: Checkpoint) -> Model:
    """What a checkpoint means, as far as its linear layers go.

    Raises:
        UnsupportedError: transformers has no such class, cannot build it, or has its layers under
            other names than the checkpoint.
        CheckpointError: the configuration is absurd.
    """
    name = str(checkpoint.config["architectures"][0])
    built = _build(checkpoint, name)
    linears, unstored = _linears(checkpoint, built, name)
    tensors = [_whole(checkpoint, stored, stored) for stored in linears]
    ends = {EMBEDDING: built.get_input_embeddings(), OUTPUT_WEIGHT: built.get_output_embeddings()}
    for gguf, module in ends.items():
        place = next((n for n, found in built.named_modules() if found is module), "")
        stored = _stored_name(checkpoint, built, place) if module is not None else ""
        if stored and not (gguf == OUTPUT_WEIGHT and built.config.tie_word_embeddings):
            tensors.append(_whole(checkpoint, stored, gguf))
    family = Family(
        name=str(checkpoint.config.get("model_type", "")),
        classes=(name,),
        metadata=_no_keys,
        rules=_no_rules,
        encoder=built.get_output_embeddings() is None,
        unstored=unstored,
    )
    told = (
        f"{name} is no family of this program's: its linear layers are known by transformers' "
        "modules, and there is no GGUF of it"
    )
    noted = replace(checkpoint, notices=(*checkpoint.notices, told))
    used = {part.source for tensor in tensors for part in tensor.parts}
    left_out = tuple(stored for stored in checkpoint.tensors if stored not in used)
    return Model(noted, family.name, tuple(tensors), left_out, family)


def _no_keys(config: Config) -> Metadata:
    return {}


def _no_rules(config: Config) -> tuple[Rule, ...]:
    return ()


def _whole(checkpoint: Checkpoint, stored: str, name: str) -> TensorMap:
    info = checkpoint.tensors[stored]
    if not info.elements:
        raise empty_tensor(info)
    return TensorMap(name, info.shape, (Rows(stored, 0, info.rows),))


def _build(checkpoint: Checkpoint, name: str) -> Any:
    """transformers' model, without memory for weights."""
    import torch
    import transformers

    if name in LLAMA_CPP_ALONE and (refusal := why_refused(name)):
        raise UnsupportedError(*refusal)
    cls: Any = getattr(transformers, name, None)
    is_model = isinstance(cls, type) and issubclass(cls, transformers.PreTrainedModel)
    if not is_model:
        raise UnsupportedError(
            f"the family {name:.80} is not known, and transformers {transformers.__version__} has "
            "no such class",
            nearest(name),
        )
    for key, value in checkpoint.config.items():
        if "layers" in key and type(value) is int and value > MOST_BLOCKS:
            raise CheckpointError(f"config.json: {key} is {value}, more than {MOST_BLOCKS}")
    plain = {k: v for k, v in checkpoint.config.items() if k != "quantization_config"}
    try:
        with quiet_transformers(), torch.device("meta"):
            return cls(cls.config_class.from_dict(plain))
    except Exception as error:
        raise UnsupportedError(
            f"transformers {transformers.__version__} cannot build {checkpoint.source}: "
            f"{first_line(error)}",
            f"the same configuration has to load with {name}.from_pretrained",
        ) from error


def _linears(
    checkpoint: Checkpoint, built: Any, name: str
) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """The stored names of linear layers in blocks, and the parts beside blocks that transformers
    builds and the checkpoint lacks."""
    found, missing, unstored = list[str](), list[str](), list[str]()
    for module in _linear_modules(built):
        stored = _stored_name(checkpoint, built, module)
        in_block = _IN_BLOCK.search(f".{module}.")
        if stored and in_block and module.rpartition(".")[2] not in ROUTERS:
            found.append(stored)
        elif not stored and in_block:
            missing.append(module)
        elif not stored:
            unstored.append(module.removeprefix(f"{built.base_model_prefix}.").partition(".")[0])
    if missing or not found:
        what = f"lacks {shorten(missing)}" if missing else "has no linear layers in blocks"
        raise UnsupportedError(
            f"{checkpoint.source} {what} by the names of transformers' {name}",
            "classes whose tensors transformers renames or joins as it loads them need a family",
        )
    heads = OUTPUT.removesuffix(".weight")
    return tuple(found), tuple(part for part in dict.fromkeys(unstored) if part != heads)


def _linear_modules(built: Any) -> Iterator[str]:
    import torch

    for name, module in built.named_modules():
        if isinstance(module, torch.nn.Linear):
            yield name


def _stored_name(checkpoint: Checkpoint, built: Any, module: str) -> str:
    """The name under which a checkpoint has a module's weight, with the root of another class or
    without one; empty where it has none."""
    root = f"{built.base_model_prefix}."
    name = f"{module}.weight"
    candidates = (name, root + name, name.removeprefix(root))
    return next((one for one in candidates if one in checkpoint.tensors), "")
