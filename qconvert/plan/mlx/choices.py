"""How each weight is stored: the recipe, its exceptions, and what rows allow.

As mlx-lm's converter has it, every linear layer, expert and embedding is quantized, the output
projection and routers among them. Where groups do not divide the rows, integers take the largest
smaller group that does; mlx-lm leaves such weights as they are, and so are they here with small
floats, which have one size of groups.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from qconvert.formats.mlx.affine import GROUP_SIZES
from qconvert.model.mlx.families import MlxFamily
from qconvert.model.mlx.weights import is_matrix
from qconvert.model.roles import Role
from qconvert.model.weights import Weight
from qconvert.plan.mlx.types import Storage, make_storage
from qconvert.plan.overrides import match_last, matcher
from qconvert.plan.recipe import Recipe, concerns
from qconvert.plan.safetensors.schemes import KEEP, find_mlx

COARSE = make_storage("mlx8")
"""What mlx-lm's converter gives the layers that it spares."""

Exceptions = tuple[tuple[str, Storage | None], ...]
"""Patterns of names and their storage, None to keep; the last that matches counts."""


@dataclass(frozen=True)
class Choice:
    """What becomes of a weight.

    Attributes:
        storage: None where it is kept.
        wanted: what the recipe asked for.
        reason: why they differ; empty if they do not.
    """

    weight: Weight
    storage: Storage | None
    wanted: Storage | None
    reason: str = ""


def storage_of(recipe: Recipe, name: str | None = None) -> Storage:
    """That of the recipe's type, or of another, with the options that concern it.

    Raises:
        UsageError: MLX has no such type, or an option does not fit.
    """
    name = find_mlx(name or recipe.type)
    return make_storage(name, recipe.group_size if concerns("group_size", name) else None)


def exceptions(recipe: Recipe) -> Exceptions:
    """What the overrides ask for.

    Raises:
        UsageError: no such type, or a pattern is not well formed.
    """
    found = []
    for pattern, name in recipe.overrides:
        matcher(pattern)
        found.append((pattern, None if name.lower() == KEEP else storage_of(recipe, name)))
    return tuple(found)


def choose(weights: Sequence[Weight], recipe: Recipe, family: MlxFamily) -> tuple[Choice, ...]:
    """The choice for every weight, in order.

    Raises:
        UsageError: an option does not fit, or a pattern is not well formed.
        PlanError: a pattern matches nothing.
    """
    usual, named = storage_of(recipe), exceptions(recipe)
    matrices = [weight.name for weight in weights if is_matrix(weight)]
    every = [weight.name for weight in weights]
    embedding = next((one.name for one in weights if one.role is Role.EMBEDDING), "")

    def elsewhere() -> Mapping[str, Sequence[str]]:
        return {weight.name: [weight.gguf] for weight in weights}

    patterns = [pattern for pattern, _ in named]
    found = match_last(patterns, matrices, elsewhere, embedding)
    kept = match_last(recipe.keep, every, elsewhere, embedding)
    choices = []
    for weight in weights:
        wanted: Storage | None = COARSE if weight.name.endswith(family.coarse) else usual
        if weight.name in found:
            wanted = named[found[weight.name]][1]
        if not is_matrix(weight) or weight.name in kept:
            wanted = None
        choices.append(_fitted(weight, wanted))
    return tuple(choices)


def _fitted(weight: Weight, wanted: Storage | None) -> Choice:
    columns = weight.map.columns
    if wanted is None or not columns % wanted.group_size:
        return Choice(weight, wanted, wanted)
    reason = f"rows of {columns} are no multiple of {wanted.group_size}"
    sizes = GROUP_SIZES if wanted.mode == "affine" else ()
    smaller = [size for size in sizes if size < wanted.group_size and not columns % size]
    storage = replace(wanted, group_size=smaller[0]) if smaller else None
    return Choice(weight, storage, wanted, reason)
