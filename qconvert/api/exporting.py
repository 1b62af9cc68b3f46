"""The same weights in the other container."""

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from qconvert.api.types import SILENT, Where, opened, run_of
from qconvert.errors import UsageError
from qconvert.machine.watcher import Watcher

if TYPE_CHECKING:
    from qconvert.run.stream import Result


def export(
    model: Where,
    output: Where,
    *,
    dtype: Literal["auto", "f32", "f16", "bf16", "q8_0"] = "auto",
    mmproj: bool = False,
    adapter: Where | None = None,
    threads: int | None = None,
    force: bool = False,
    watcher: Watcher = SILENT,
) -> "Result":
    """Change the container and keep the weights: a directory becomes a GGUF file, a GGUF file a
    directory.

    Args:
        dtype: of all weights; "auto" is the type that holds the source's, and "q8_0" is for
            `mmproj` alone.
        mmproj: of a model that reads images, the part that does, as llama.cpp takes it beside the
            language model.

    Raises:
        As `quantize`.
    """
    from qconvert.plan.recipe import Recipe
    from qconvert.plan.safetensors.export import make_export_plan
    from qconvert.run.mmproj import plan_mmproj
    from qconvert.run.outputs import write_stale
    from qconvert.run.quantize import float_type, plan_outputs

    checkpoint, run = opened(model, watcher, adapter), run_of(threads, watcher)
    recipe = Recipe(dtype, output=Path(output))
    if dtype == "q8_0" and not mmproj:
        raise UsageError("q8_0 is for vision parts", "`quantize` makes models of that type")
    if mmproj:
        made = plan_mmproj(checkpoint, recipe)
    elif checkpoint.container == "gguf":
        made = make_export_plan(checkpoint, recipe)
    else:
        wanted = float_type(checkpoint.tensors.values()) if dtype == "auto" else dtype
        (made,) = plan_outputs(checkpoint, [replace(recipe, type=wanted)], run)
    return write_stale([made], run.threads, watcher, force=force)[0]
