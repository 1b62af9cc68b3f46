"""The same weights in the other container."""

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from qconvert.api.types import SILENT, Where, opened, run_of
from qconvert.machine.watcher import Watcher

if TYPE_CHECKING:
    from qconvert.run.stream import Result


def export(
    model: Where,
    output: Where,
    *,
    dtype: Literal["auto", "f32", "f16", "bf16"] = "auto",
    adapter: Where | None = None,
    threads: int | None = None,
    force: bool = False,
    watcher: Watcher = SILENT,
) -> "Result":
    """Change the container and keep the weights: a directory becomes a GGUF file, a GGUF file a
    directory.

    Args:
        dtype: of all weights; "auto" is the type that holds the source's.

    Raises:
        As `quantize`.
    """
    from qconvert.plan.recipe import Recipe
    from qconvert.plan.safetensors.export import make_export_plan
    from qconvert.run.outputs import write_stale
    from qconvert.run.quantize import float_type, plan_outputs

    checkpoint, run = opened(model, watcher, adapter), run_of(threads, watcher)
    recipe = Recipe(dtype, output=Path(output))
    if checkpoint.container == "gguf":
        made = make_export_plan(checkpoint, recipe)
    else:
        wanted = float_type(checkpoint) if dtype == "auto" else dtype
        (made,) = plan_outputs(checkpoint, [replace(recipe, type=wanted)], run)
    return write_stale([made], run.threads, watcher, force=force)[0]
