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


def check_options(recipe: "Recipe") -> None:
    """Refuse what has no meaning for a vision part, before anything is fetched.

    Raises:
        UsageError: there is such an option.
    """
    if recipe.split_max_size is not None or recipe.max_shard_size is not None:
        raise UsageError("llama.cpp reads a vision part from one file", "leave sizes of parts out")
    if not recipe.vocabulary:
        raise UsageError("a vision part has no vocabulary anyway", "leave --no-vocabulary out")
    if recipe.output is not None:
        check_output(recipe.output)
        if recipe.output.suffix != ".gguf":
            hint = "name a file that ends in .gguf with -o"
            raise UsageError(f"{recipe.output} is no .gguf file", hint)


def to_mmproj(
    checkpoint: "Checkpoint", recipe: "Recipe", threads: int | None, **flags: Any
) -> None:
    """Write the vision part as llama.cpp takes it beside the language model's file."""
    from qconvert.plan.recipe import model_name
    from qconvert.run.crew import Crew
    from qconvert.run.mmproj import plan_mmproj

    path = recipe.output or Path(f"mmproj-{model_name(checkpoint.source)}.gguf")
    planned = plan_mmproj(checkpoint, replace(recipe, output=path))
    outcome.write([planned], Crew(threads=threads), **flags)
