"""What the plans of all directories have in common."""

from collections.abc import Callable, Mapping
from dataclasses import replace

from qconvert import __version__
from qconvert.checkpoint import Checkpoint
from qconvert.containers.directory import MAX_SHARD_SIZE, Directory
from qconvert.plan.recipe import Recipe
from qconvert.plan.types import Plan, TensorPlan


def directory_plan(
    checkpoint: Checkpoint,
    recipe: Recipe,
    tensors: tuple[TensorPlan, ...],
    made_by: Mapping[str, str],
    notices: tuple[str, ...],
    files: Callable[[Plan], Mapping[str, bytes]],
) -> Plan:
    """The plan of a directory.

    Args:
        made_by: what the header of each file says of how it came to be, beside version and source.
        files: makes the small files, by name, of the plan that lacks them.
    """
    header = {
        "format": "pt",
        "qconvert.version": __version__,
        "qconvert.source": checkpoint.source,
        **made_by,
    }
    slots = [slot for tensor in tensors for slot in tensor.slots]
    limit = recipe.max_shard_size or MAX_SHARD_SIZE
    target = Directory(recipe.path(checkpoint.source), slots, header, {}, limit)
    nbytes = sum(tensor.nbytes for tensor in tensors)
    plan = Plan(checkpoint, recipe, tensors, target, nbytes, notices)
    return replace(plan, target=replace(target, files=files(plan)))
