"""Which sizes to leave, where only the sum of all parameters is given, or the bytes of a file.

    1. what it costs to leave ever more out is measured for each part by itself
    2. combinations that fit are ordered by the sum of what their parts cost
    3. the best of them are tried whole, and the best of these is taken

Costs of parts do not add up exactly, which is why the last step measures again.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import product
from pathlib import Path

import numpy as np

from qconvert.errors import PlanError, UnsupportedError
from qconvert.model.open import Model
from qconvert.plan.make import make_plan
from qconvert.plan.pruning.cut import Cut, Shape
from qconvert.plan.pruning.plan import Smaller, make_smaller
from qconvert.plan.recipe import Recipe
from qconvert.run.pruning.choose import columns, group_masks, layer_costs, neuron_masks
from qconvert.run.pruning.desk import Desk
from qconvert.run.pruning.judge import Cost, Trial
from qconvert.run.pruning.kept import keep_costs
from qconvert.run.pruning.layers import Round, layer_rounds
from qconvert.run.pruning.types import Curve, Wanted

STEPS = 16
"""Sizes of a feed-forward that are tried, at most."""

DEEPEST = 0.5
"""The share of a part that may go."""

TRIED = 3
"""Combinations that are tried whole."""


@dataclass(frozen=True)
class Found:
    """What a search found.

    Attributes:
        left: the sizes.
        rounds: of layers, in their order.
        curves: what was measured.
    """

    left: Shape
    rounds: tuple[Round, ...]
    curves: tuple[Curve, ...]


def search(desk: Desk, wanted: Wanted) -> Found:
    """The sizes that fit a budget and cost least.

    Raises:
        PlanError: none that may be left are small enough, or the model is small enough already.
    """
    shape = desk.shape
    size = _size(desk, wanted)
    budget = wanted.parameters or wanted.under or 0
    if size(shape) <= budget:
        raise PlanError("the model is no larger than that", "allow less, or leave it as it is")
    parts = {"layers": _layer_sizes(shape), **_inner_sizes(desk, wanted.multiple)}
    smallest = replace(shape, **{part: sizes[-1] for part, sizes in parts.items()})
    if size(_with_kv(shape, smallest)) > budget:
        raise PlanError(
            f"{budget} is too small: with half of every part {size(_with_kv(shape, smallest))} "
            "are left",
            "allow more, or cut in two steps, with `qconvert distill` between",
        )
    rounds = tuple(layer_rounds(desk, _deepest(shape, size, budget)))
    curves = (
        Curve("layers", layer_costs(shape.layers, rounds)),
        *(_measured(desk, part, sizes) for part, sizes in parts.items() if part != "layers"),
    )
    choices = _fitting(shape, curves, lambda left: size(left) <= budget)
    best = choices[:TRIED]
    costs = _tried(desk, best, rounds)
    left = min(zip(costs, best, strict=True), key=lambda pair: pair[0].divergence)[1]
    return Found(left, rounds[: shape.layers - left.layers], curves)


def _layer_sizes(shape: Shape) -> list[int]:
    return list(range(shape.layers, max(round(shape.layers * DEEPEST), 1) - 1, -1))


def _inner_sizes(desk: Desk, multiple: int) -> dict[str, list[int]]:
    """Sizes of other parts, the whole first; none of a part that the family cannot have smaller."""
    shape, found = desk.shape, dict[str, list[int]]()
    if not shape.experts:
        step = -(-max(shape.ffn // STEPS, 1) // multiple) * multiple
        found["ffn"] = list(range(shape.ffn, int(shape.ffn * DEEPEST) - 1, -step))
    each = shape.heads // shape.kv
    counts = range(shape.kv, max(int(shape.kv * DEEPEST), 1) - 1, -1)
    fits = (shape.heads * shape.head) % multiple != 0
    found["heads"] = [kv * each for kv in counts if fits or kv * each * shape.head % multiple == 0]
    return {part: sizes for part, sizes in found.items() if _is_allowed(desk, part, sizes)}


def _is_allowed(desk: Desk, part: str, sizes: Sequence[int]) -> bool:
    if len(sizes) < 2:
        return False
    try:
        _leading(desk, _with_kv(desk.shape, replace(desk.shape, **{part: sizes[-1]})))
    except UnsupportedError as error:
        desk.watcher.note(f"{part} stay as they are: {error.message}")
        return False
    return True


def _with_kv(whole: Shape, left: Shape) -> Shape:
    return replace(left, kv=whole.kv * left.heads // whole.heads)


def _leading(desk: Desk, left: Shape) -> Smaller:
    """A model of some sizes, whatever stays: the first of everything."""
    shape, blocks = desk.shape, tuple(range(left.layers))

    def first(count: int, whole: int) -> dict[int, np.ndarray]:
        return dict.fromkeys(blocks, np.arange(whole) < count) if count < whole else {}

    cut = Cut(blocks, first(left.ffn, shape.ffn), first(left.kv, shape.kv))
    return make_smaller(desk.model, cut, desk.of_layers)


def _size(desk: Desk, wanted: Wanted) -> Callable[[Shape], int]:
    """Parameters, or bytes of a file, by sizes."""
    if wanted.under is None:
        return lambda left: _leading(desk, left).parameters
    recipe = Recipe(wanted.type or "", output=Path("tried"), vocabulary=False)

    def nbytes(model: Model) -> int:
        return make_plan(model, recipe).nbytes

    return lambda left: nbytes(_leading(desk, left).model)


def _deepest(shape: Shape, size: Callable[[Shape], int], budget: int) -> int:
    """How many layers may have to go: so many that nothing else need."""
    for left in _layer_sizes(shape):
        if size(replace(shape, layers=left)) <= budget:
            return shape.layers - left
    return shape.layers - _layer_sizes(shape)[-1]


def _measured(desk: Desk, part: str, sizes: Sequence[int]) -> Curve:
    """What it costs to have a part smaller in every layer."""
    smaller = sizes[1:]
    trials = [Trial(columns=_columns(desk, replace(desk.shape, **{part: n}))) for n in smaller]
    name = f"{part} {smaller}"
    costs = keep_costs(desk.store, name, lambda: desk.judge.costs(trials))
    return Curve(part, dict(zip(smaller, costs, strict=True)))


def _columns(desk: Desk, left: Shape) -> dict[str, np.ndarray]:
    shape = desk.shape
    left = _with_kv(shape, left)
    ffn = neuron_masks(desk, left.ffn) if left.ffn < shape.ffn else {}
    groups = group_masks(desk, left.kv) if left.kv < shape.kv else {}
    return columns(shape, ffn, groups)


def _fitting(shape: Shape, curves: Sequence[Curve], fits: Callable[[Shape], bool]) -> list[Shape]:
    """The combinations that fit and promise to cost least, the best first."""
    found = []
    for _, sizes in sorted(_combined(shape, curves), key=lambda pair: pair[0]):
        left = _with_kv(shape, replace(shape, **sizes))
        if fits(left):
            found.append(left)
        if len(found) == TRIED:
            break
    return found


def _combined(shape: Shape, curves: Sequence[Curve]) -> Iterator[tuple[float, dict[str, int]]]:
    options = [
        [(0.0, one.part, getattr(shape, one.part))]
        + [(cost.divergence, one.part, size) for size, cost in one.costs.items()]
        for one in curves
    ]
    for combination in product(*options):
        cost = sum(each for each, _, _ in combination)
        yield cost, {part: size for _, part, size in combination}


def _tried(desk: Desk, several: Sequence[Shape], rounds: Sequence[Round]) -> list[Cost]:
    trials = [
        Trial(
            frozenset(one.gone for one in rounds[: desk.shape.layers - left.layers]),
            _columns(desk, left),
        )
        for left in several
    ]
    name = f"combinations {several}"
    return keep_costs(desk.store, name, lambda: desk.judge.costs(trials))
