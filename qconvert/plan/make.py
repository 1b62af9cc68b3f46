"""A model, a recipe and what a calibration adds: one plan, whatever the container."""

from qconvert.model.open import Model
from qconvert.plan.recipe import Recipe
from qconvert.plan.safetensors.schemes import is_mlx, is_scheme
from qconvert.plan.statistics import NOTHING, Statistics
from qconvert.plan.types import Plan


def make_plan(model: Model, recipe: Recipe, statistics: Statistics = NOTHING) -> Plan:
    """Decide what an output will hold. Pure: headers and statistics are all that is read.

    Raises:
        UsageError: an option does not fit, a type's name is not known, or a pattern is not well
            formed.
        UnsupportedError: a family, tokenizer or scheme that is not known.
        PlanError: a pattern matches nothing, what is asked for cannot be made, or the statistics
            belong to another model.
        CheckpointError: metadata or small files cannot be read or trusted.
    """
    if is_mlx(recipe.type):
        from qconvert.plan.mlx.plan import plan_mlx

        return plan_mlx(model, recipe, statistics)
    if is_scheme(recipe.type):
        from qconvert.plan.safetensors.plan import plan_directory

        return plan_directory(model, recipe, statistics)
    from qconvert.plan.gguf.plan import plan_file

    return plan_file(model, recipe, statistics)
