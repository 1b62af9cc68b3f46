"""A checkpoint at a glance, and what each file type would make of it."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

from qconvert.checkpoint import Checkpoint
from qconvert.checkpoint.metadata import Field
from qconvert.errors import PlanError, UnsupportedError
from qconvert.inspection.grids import Grid, find_grids
from qconvert.inspection.tensors import dtypes_of
from qconvert.inspection.vision import describe_vision, is_vision_part
from qconvert.model.open import Model, open_model
from qconvert.model.vision.open import ARCHITECTURE
from qconvert.plan.gguf.file_types import FILE_TYPES
from qconvert.plan.make import make_plan
from qconvert.plan.recipe import Recipe
from qconvert.plan.safetensors.schemes import is_scheme
from qconvert.plan.types import Plan

EVERY_FILE_TYPE = tuple(dict.fromkeys(kind.name for kind in FILE_TYPES.values()))

CONTEXT_KEYS = ("max_position_embeddings", "n_positions", "n_ctx")


@dataclass(frozen=True)
class Inspection:
    """A checkpoint at a glance.

    Attributes:
        architecture: GGUF's name where it is known, else the class in config.json.
        parameters: weights; a tied output counts once.
        context_length: tokens, or None where nothing says it.
        tokenizer: kind and pre-tokenizer, or "".
        dtypes: tensors and bytes by dtype.
        plans: what each type would make, as far as it can be made.
        problems: why there are no plans, or not for all types.
        grids: those that the weights lie on already.
        vision: what reads images, in a line; "" where nothing does.
    """

    checkpoint: Checkpoint
    architecture: str
    parameters: int
    context_length: int | None
    tokenizer: str
    dtypes: Mapping[str, tuple[int, int]]
    metadata: Mapping[str, Field]
    plans: tuple[Plan, ...]
    problems: tuple[str, ...]
    grids: tuple[Grid, ...] = ()
    vision: str = ""


def look_at(checkpoint: Checkpoint, types: Sequence[str] = EVERY_FILE_TYPE) -> Inspection:
    """Inspect a checkpoint.

    Args:
        types: GGUF file types and schemes of safetensors to plan for; with none, no weight is
            read either.
    """
    if is_vision_part(checkpoint.metadata):
        return _of_vision_part(checkpoint)
    model, problems = _try(lambda: _open(checkpoint))
    # Where a tokenizer that is not known is met; safetensors can do without.
    known, more = _try(lambda: model.metadata if model else {})
    problems = (*problems, *more)
    plans: list[Plan] = []
    for name in types:
        if model is None or (known is None and not is_scheme(name)):
            continue
        try:
            plans.append(make_plan(model, Recipe(name)))
        except (PlanError, UnsupportedError) as error:
            problems = (*problems, f"{name}: {error.message.removeprefix(f'{name} ')}")
    metadata = checkpoint.metadata or known or {}
    return Inspection(
        checkpoint,
        model.architecture if model else _class_name(checkpoint),
        model.parameters if model else checkpoint.parameters,
        _context_length(checkpoint.config, metadata),
        _tokenizer(metadata),
        dtypes_of(checkpoint.tensors.values()),
        metadata,
        tuple(plans),
        (*(model.notices if model and known is not None else ()), *problems),
        find_grids(model) if model and types else (),
        describe_vision(checkpoint),
    )


def _of_vision_part(checkpoint: Checkpoint) -> Inspection:
    """A file that llama.cpp takes beside a language model: there is nothing to be planned."""
    return Inspection(
        checkpoint,
        ARCHITECTURE,
        checkpoint.parameters,
        None,
        "",
        dtypes_of(checkpoint.tensors.values()),
        checkpoint.metadata,
        (),
        (),
        vision=describe_vision(checkpoint),
    )


def _open(checkpoint: Checkpoint) -> Model:
    if checkpoint.container == "gguf" and "general.architecture" not in checkpoint.metadata:
        raise UnsupportedError("this GGUF file holds no model")
    return open_model(checkpoint)


Found = TypeVar("Found")


def _try(find: Callable[[], Found]) -> tuple[Found | None, tuple[str, ...]]:
    """What is found, or why not."""
    try:
        return find(), ()
    except (UnsupportedError, PlanError) as error:
        return None, (error.message, error.hint) if error.hint else (error.message,)


def _class_name(checkpoint: Checkpoint) -> str:
    classes = checkpoint.config.get("architectures")
    return str(classes[0]) if isinstance(classes, list) and classes else "unknown"


def _context_length(config: Mapping[str, Any], metadata: Mapping[str, Field]) -> int | None:
    for key, field in metadata.items():
        if key.endswith(".context_length") and type(field.value) is int:
            return field.value
    for key in CONTEXT_KEYS:
        if isinstance(config.get(key), int):
            return int(config[key])
    return None


def _tokenizer(metadata: Mapping[str, Field]) -> str:
    if "tokenizer.ggml.model" not in metadata:
        return ""
    field = metadata.get("tokenizer.ggml.tokens")
    tokens = field.value if field is not None and field.item is not None else ()
    parts = [str(metadata["tokenizer.ggml.model"].value)]
    if "tokenizer.ggml.pre" in metadata:
        parts.append(str(metadata["tokenizer.ggml.pre"].value))
    return f"{'/'.join(parts)}, {len(tokens)} tokens" if tokens else "/".join(parts)
