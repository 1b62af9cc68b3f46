"""A checkpoint at a glance, and what each file type would make of it."""

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from qconvert.checkpoint import Checkpoint
from qconvert.checkpoint.metadata import Field
from qconvert.errors import PlanError, UnsupportedError
from qconvert.model.open import Model, open_model
from qconvert.plan.gguf.file_types import FILE_TYPES, FileType
from qconvert.plan.make import make_plan
from qconvert.plan.recipe import Recipe
from qconvert.plan.types import Plan

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
        plans: what each file type would make, as far as it can be made.
        problems: why there are no plans, or not for all types.
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


def look_at(checkpoint: Checkpoint, file_types: tuple[FileType, ...] | None = None) -> Inspection:
    """Inspect a checkpoint.

    Args:
        file_types: the types to plan for; all by default.
    """
    model, problems = _try_model(checkpoint)
    plans: list[Plan] = []
    if file_types is None:
        file_types = tuple(dict.fromkeys(FILE_TYPES.values()))
    for kind in file_types:
        if model is None:
            break
        try:
            plans.append(make_plan(model, Recipe(kind.name)))
        except PlanError as error:
            why = error.message.removeprefix(f"{kind.name} ")
            problems = (*problems, f"{kind.name}: {why}")
    metadata = checkpoint.metadata or (model.metadata if model else {})
    return Inspection(
        checkpoint,
        model.architecture if model else _class_name(checkpoint),
        model.parameters if model else checkpoint.parameters,
        _context_length(checkpoint.config, metadata),
        _tokenizer(metadata),
        _dtypes(checkpoint),
        metadata,
        tuple(plans),
        (*(model.notices if model else ()), *problems),
    )


def _try_model(checkpoint: Checkpoint) -> tuple[Model | None, tuple[str, ...]]:
    if checkpoint.container == "gguf" and "general.architecture" not in checkpoint.metadata:
        return None, ("this GGUF file holds no model",)
    try:
        model = open_model(checkpoint)
        _ = model.metadata  # where a tokenizer that is not known is met
        return model, ()
    except (UnsupportedError, PlanError) as error:
        return None, (error.message, error.hint) if error.hint else (error.message,)


def _class_name(checkpoint: Checkpoint) -> str:
    classes = checkpoint.config.get("architectures")
    return str(classes[0]) if isinstance(classes, list) and classes else "unknown"


def _context_length(config: Mapping[str, Any], metadata: Mapping[str, Field]) -> int | None:
    for key, field in metadata.items():
        if key.endswith(".context_length"):
            return int(field.value)
    for key in CONTEXT_KEYS:
        if isinstance(config.get(key), int):
            return int(config[key])
    return None


def _tokenizer(metadata: Mapping[str, Field]) -> str:
    if "tokenizer.ggml.model" not in metadata:
        return ""
    tokens = metadata.get("tokenizer.ggml.tokens")
    parts = [str(metadata["tokenizer.ggml.model"].value)]
    if "tokenizer.ggml.pre" in metadata:
        parts.append(str(metadata["tokenizer.ggml.pre"].value))
    return f"{'/'.join(parts)}, {len(tokens.value)} tokens" if tokens else "/".join(parts)


def _dtypes(checkpoint: Checkpoint) -> dict[str, tuple[int, int]]:
    counts: Counter[str] = Counter()
    sizes: Counter[str] = Counter()
    for tensor in checkpoint.tensors.values():
        counts[tensor.dtype] += 1
        sizes[tensor.dtype] += tensor.nbytes
    return {dtype: (counts[dtype], sizes[dtype]) for dtype, _ in sizes.most_common()}
