"""A vision part's file: what `export --mmproj` writes."""

from dataclasses import replace

from qconvert.checkpoint import Checkpoint
from qconvert.model.vision.open import open_vision
from qconvert.plan.gguf.vision import plan_vision
from qconvert.plan.recipe import Recipe
from qconvert.plan.types import Plan
from qconvert.run.quantize import check_places, float_type

AUTO = "auto"


def plan_mmproj(checkpoint: Checkpoint, recipe: Recipe) -> Plan:
    """Plan the file.

    Args:
        recipe: its type may be "auto": that of most of the tower's bytes.

    Raises:
        UsageError: the output is the source itself, or the type is none for such files.
        UnsupportedError, PlanError, CheckpointError: see `open_vision` and `plan_vision`.
    """
    check_places(checkpoint, [recipe])
    vision = open_vision(checkpoint)
    if recipe.type == AUTO:
        sources = {part.source for tensor in vision.tensors for part in tensor.parts}
        held = float_type(checkpoint.tensors[name] for name in sorted(sources))
        recipe = replace(recipe, type=held)
    return plan_vision(vision, recipe)
