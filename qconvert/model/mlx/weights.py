"""Weights under the names that mlx-lm has for them, experts of a layer stacked.

mlx-lm's converter writes what its modules hold; `sanitize` of each family says how that is called.
Rows are in transformers' order, and matrices [out, in].
"""

from collections.abc import Sequence
from dataclasses import replace

from qconvert.errors import PlanError, UnsupportedError
from qconvert.model.mapping import OUTPUT
from qconvert.model.mlx.families import MlxFamily
from qconvert.model.names import bare_name
from qconvert.model.open import Model
from qconvert.model.types import Rows
from qconvert.model.weights import Weight

ROOT = "model."


def mlx_weights(model: Model, family: MlxFamily) -> tuple[Weight, ...]:
    """Every weight of the language model, in the order of the source's files; a stack where the
    first of its experts is.

    Raises:
        UnsupportedError: it has an output projection that mlx-lm has no place for.
    """
    stacks: dict[str, list[Weight]] = {}
    for weight in model.weights:
        if weight.gguf:  # else mlx-lm has no place for it either: rotary tables, a vision tower
            stacks.setdefault(_name(weight, family), []).append(weight)
    if family.model_type == "gpt2" and OUTPUT in stacks:
        raise UnsupportedError(
            "mlx-lm's GPT-2 has no output projection of its own, and this model has one",
            "write a GGUF file or another directory of it",
        )
    return tuple(_stacked(name, weights) for name, weights in stacks.items())


def is_matrix(weight: Weight) -> bool:
    """Whether it is that of a linear layer, of experts or of an embedding, which mlx-lm's converter
    quantizes all."""
    return len(weight.map.shape) > 1 and weight.name.endswith(".weight")


def _name(weight: Weight, family: MlxFamily) -> str:
    bare = bare_name(weight.name)
    before, mark, after = bare.partition("experts.")
    if weight.expert and mark:
        bare = before + family.experts[after.partition(".")[2]]
    return family.wrapper + (bare if bare == OUTPUT else ROOT + bare)


def _stacked(name: str, weights: Sequence[Weight]) -> Weight:
    """One weight; of experts the stack of all, by their numbers."""
    ordered = sorted(weights, key=lambda weight: weight.matrix)
    first = ordered[0]
    map_ = replace(first.matrix_map, name=name)
    if first.expert:
        if [weight.matrix for weight in ordered] != list(range(len(ordered))):
            raise PlanError(f"{name} lacks some of its experts")
        parts = [part for weight in ordered for part in weight.matrix_map.parts]
        shape = (len(ordered), *map_.shape)
        map_ = replace(map_, shape=shape, parts=_merged(parts))
    return replace(first, map=map_, conv1d=False)


def _merged(parts: Sequence[Rows]) -> tuple[Rows, ...]:
    """Runs that go on where the one before ends, as one."""
    made: list[Rows] = []
    for part in parts:
        last = made[-1] if made else None
        if last and last.source == part.source and last.stop == part.start and part.stride == 1:
            made[-1] = replace(last, stop=part.stop)
        else:
            made.append(part)
    return tuple(made)
