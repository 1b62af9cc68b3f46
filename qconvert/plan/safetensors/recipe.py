"""What a recipe asks of a quantized safetensors directory, in schemes."""

import json
from dataclasses import asdict

from qconvert.algorithms.ranges import estimator
from qconvert.errors import UsageError
from qconvert.formats.safetensors.types import Estimator
from qconvert.plan.overrides import matcher
from qconvert.plan.recipe import OLDER, Recipe, concerns
from qconvert.plan.safetensors.schemes import KEEP, Scheme, find_scheme, kind_of, make_scheme

Exceptions = tuple[tuple[str, Scheme | None], ...]
"""Patterns of names and their schemes, None to keep; the last that matches counts."""


def exceptions(recipe: Recipe) -> Exceptions:
    """What the overrides ask for.

    Raises:
        UnsupportedError: an override names no scheme.
        UsageError: an option does not fit, or a pattern is not well formed.
    """
    found = []
    for pattern, name in recipe.overrides:
        matcher(pattern)
        if kind_of(recipe.type) in OLDER and name.lower() not in (KEEP, recipe.type.lower()):
            raise UsageError(
                f"{recipe.type} stores all layers in one way, not some as {name:.40}",
                f"write '{pattern:.60}={KEEP}', or choose w4a16",
            )
        if name.lower() != KEEP and (kind_of(name) == "lut") != (kind_of(recipe.type) == "lut"):
            raise UsageError(
                f"{recipe.type} and {name:.40} cannot stand in one checkpoint: one is plain, the "
                "other quantized",
                f"write '{pattern:.60}={KEEP}', or choose types of one kind",
            )
        found.append((pattern, None if name.lower() == KEEP else scheme_of(recipe, name)))
    return tuple(found)


def scheme_of(recipe: Recipe, name: str | None = None) -> Scheme:
    """The scheme of linear weights, or of that name, with those of the options that concern it.

    An exception of another kind has its own usual ones: stored ranges of inputs, say, are those of
    one kind.

    Raises:
        UsageError: no such scheme, or an option does not fit it.
    """
    name = name or recipe.type
    if kind_of(find_scheme(name)) != kind_of(recipe.type):
        return make_scheme(name)
    chosen = {
        option: getattr(recipe, option)
        for option in ("activations", "strategy", "group_size", "asymmetric")
        if concerns(option, name)
    }
    return make_scheme(name, **chosen)


def weight_estimator(recipe: Recipe) -> Estimator | None:
    """Of the weights' ranges; None for the usual one."""
    if recipe.weight_range is None:
        return None
    percentile = recipe.percentile if recipe.weight_range == "percentile" else None
    return estimator(recipe.weight_range, percentile)


def spelled(recipe: Recipe) -> str:
    """All that the bytes of the weights depend on, as JSON for the header of the files."""
    weights = weight_estimator(recipe)
    said = {
        "scheme": asdict(scheme_of(recipe)),
        "overrides": [(name, scheme and asdict(scheme)) for name, scheme in exceptions(recipe)],
        "keep": recipe.keep,
        "lm_head": recipe.lm_head,
        "embeddings": recipe.embeddings,
        "estimator": weights and asdict(weights),
        "allow_nan": recipe.allow_nan,
        **({"kv": recipe.kv} if recipe.kv else {}),
    }
    return json.dumps(said, sort_keys=True, separators=(",", ":"))
