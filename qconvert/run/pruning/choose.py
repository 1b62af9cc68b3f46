"""What stays, of sizes that are named: which layers, neurons, heads, channels and experts."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from qconvert.algorithms.pruning.parts import largest
from qconvert.plan.pruning.cut import Cut, Shape, query_mask
from qconvert.plan.pruning.plan import Smaller, make_smaller
from qconvert.run.pruning.desk import Desk
from qconvert.run.pruning.experts import expert_scores
from qconvert.run.pruning.judge import Cost, Trial
from qconvert.run.pruning.layers import Round, layer_rounds
from qconvert.run.pruning.scores import (
    ATTENTION,
    DOWN,
    channel_scores,
    group_scores,
    neuron_scores,
    norm_factors,
)
from qconvert.run.pruning.types import Curve

Masks = Mapping[int, np.ndarray]
"""bool, by block."""


@dataclass(frozen=True, eq=False)
class Choice:
    """What stays.

    Attributes:
        gone: layers, in the order in which they go.
        trial: the same, as it can be tried on the whole model; None where it cannot.
        curves: what was measured for it.
    """

    smaller: Smaller
    gone: tuple[int, ...] = ()
    trial: Trial | None = None
    curves: tuple[Curve, ...] = ()


def choose(desk: Desk, left: Shape, known: Sequence[Round] = ()) -> Choice:
    """What stays of each part.

    Args:
        left: the sizes.
        known: rounds of layers that were measured already.

    Raises:
        UnsupportedError: the family cannot have these sizes.
        PlanError: the calibration lacks something.
    """
    shape, model = desk.shape, desk.model
    whole = tuple(range(shape.layers))
    ffn = neuron_masks(desk, left.ffn) if left.ffn < shape.ffn else {}
    groups = group_masks(desk, left.kv) if left.kv < shape.kv else {}
    hidden = channel_mask(desk, left.hidden) if left.hidden < shape.hidden else None
    norms = {} if hidden is None else norm_factors(model, desk.calibration, hidden)
    # What the family cannot have is said before the model works, which takes long.
    first = Cut(whole[: left.layers], ffn, groups, {}, hidden, norms)
    make_smaller(model, first, desk.of_layers)
    experts = expert_masks(desk, left.experts) if left.experts < shape.experts else {}
    count = shape.layers - left.layers
    made = [*known[:count], *layer_rounds(desk, count, tuple(one.gone for one in known[:count]))]
    gone = tuple(one.gone for one in made)
    blocks = tuple(number for number in whole if number not in gone)
    smaller = make_smaller(model, Cut(blocks, ffn, groups, experts, hidden, norms), desk.of_layers)
    trial = Trial(frozenset(gone), columns(shape, ffn, groups))
    curves = (Curve("layers", layer_costs(shape.layers, made)),) if made else ()
    return Choice(smaller, gone, None if hidden is not None or experts else trial, curves)


def layer_costs(layers: int, made: Sequence[Round]) -> dict[int, Cost]:
    """By how many of so many layers are left."""
    return {layers - number: one.cost for number, one in enumerate(made, 1)}


def columns(shape: Shape, ffn: Masks, groups: Masks) -> dict[str, np.ndarray]:
    """The columns of weights that stay with neurons and heads, by GGUF name."""
    found = {f"blk.{block}.{DOWN}": mask for block, mask in ffn.items()}
    for block, mask in groups.items():
        found[f"blk.{block}.{ATTENTION}"] = query_mask(mask, shape)
    return found


def neuron_masks(desk: Desk, count: int) -> Masks:
    return _largest(neuron_scores(desk.model, desk.calibration, desk.shape), count)


def group_masks(desk: Desk, count: int) -> Masks:
    return _largest(group_scores(desk.model, desk.calibration, desk.shape), count)


def channel_mask(desk: Desk, count: int) -> np.ndarray:
    return largest(channel_scores(desk.model, desk.calibration), count)


def expert_masks(desk: Desk, count: int) -> Masks:
    return _largest(expert_scores(desk), count)


def _largest(scores: Masks, count: int) -> Masks:
    return {block: largest(one, count) for block, one in scores.items()}
