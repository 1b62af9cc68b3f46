"""`qconvert export --mmproj`: of a model that reads images, the part that does."""

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from qconvert.cli import outcome
from qconvert.containers.place import check_output
from qconvert.errors import UsageError

if TYPE_CHECKING:
    from qconvert.checkpoint import Checkpoint
    from qconvert.plan.recipe import Recipe


def to_mmproj(
    checkpoint: "Checkpoint", recipe: "Recipe", threads: int | None, **flags: Any
) -> None:
    """Write the vision part as llama.cpp takes it beside the language model's file."""
    from qconvert.plan.recipe import model_name
    from qconvert.run.mmproj import plan_mmproj

    if recipe.split_max_size is not None or recipe.max_shard_size is not None:
        raise UsageError("llama.cpp reads a vision part from one file", "leave sizes of parts out")
    if not recipe.vocabulary:
        raise UsageError("a vision part has no vocabulary anyway", "leave --no-vocabulary out")
    path = recipe.output or Path(f"mmproj-{model_name(checkpoint.source)}.gguf")
    check_output(path)
    if path.suffix != ".gguf":
        raise UsageError(f"{path} is no .gguf file", "name a file that ends in .gguf with -o")
    outcome.write([plan_mmproj(checkpoint, replace(recipe, output=path))], threads, **flags)
