"""Scores of a model's parts, from a calibration and the weights, without running it."""

from collections.abc import Mapping

import numpy as np

from qconvert.algorithms.pruning.parts import by_channel, by_column, grouped, rescaling
from qconvert.calibration.types import Calibration
from qconvert.errors import PlanError, UnsupportedError
from qconvert.model.assemble import assemble
from qconvert.model.folding import folds
from qconvert.model.open import Model
from qconvert.plan.pruning.cut import Shape, dimensions_of, shape_of

SLAB = 1 << 22
"""Weights that are read at once."""

DOWN, ATTENTION = "ffn_down.weight", "attn_output.weight"

SCALED = "gemma"
"""Families whose names begin so multiply embeddings with the root of the width."""

Scores = Mapping[int, np.ndarray]
"""float64, by block."""


def neuron_scores(model: Model, calibration: Calibration, shape: Shape) -> Scores:
    """Of the feed-forward's neurons.

    Raises:
        UnsupportedError: the feed-forward has experts.
        PlanError: the calibration lacks a weight.
    """
    if shape.experts:
        raise UnsupportedError(
            f"{model.family.name} has experts, whose neurons are not cut",
            "leave out whole ones: --experts",
        )
    return {
        block: _column_scores(model, calibration, f"blk.{block}.{DOWN}")
        for block in range(shape.layers)
    }


def group_scores(model: Model, calibration: Calibration, shape: Shape) -> Scores:
    """Of groups of heads.

    Raises:
        PlanError: the calibration lacks a weight.
    """
    return {
        block: grouped(_column_scores(model, calibration, f"blk.{block}.{ATTENTION}"), shape.kv)
        for block in range(shape.layers)
    }


def channel_scores(model: Model, calibration: Calibration) -> np.ndarray:
    """Of the channels of the residual stream, over the whole model.

    Raises:
        UnsupportedError: the family's embeddings depend on the width.
    """
    if model.family.name.startswith(SCALED):
        raise UnsupportedError(
            f"{model.family.name} multiplies embeddings with the root of its width, which stays",
            "cut --layers, --ffn or --heads",
        )
    return by_channel(
        [
            one.sum_squares.sum(axis=0)
            for one in calibration.inputs.values()
            if dimensions_of(model, one.weights[0])[-1] == "hidden"
        ]
    )


def norm_factors(model: Model, calibration: Calibration, hidden: np.ndarray) -> dict[str, float]:
    """What norms are multiplied with where channels go, by GGUF name, as they act."""
    names = set(model.shapes)
    pairs = [
        (fold.maker, fold.weights[0])
        for block in range(shape_of(model).layers)
        for fold in folds(model.family.folds, block, names)
        if fold.is_norm
    ]
    pairs.append(("output_norm", "output" if "output.weight" in names else "token_embd"))
    maps = {one.name: one for one in model.tensors}
    found = {}
    for norm, weight in pairs:
        seen = calibration.by_weight.get(f"{weight}.weight")
        if seen is None:
            continue
        own = maps[f"{norm}.weight"]
        values = assemble(own, model.checkpoint.tensors, 0, own.rows).reshape(-1)
        square = seen.sum_squares.sum(axis=0) / max(int(seen.count.sum()), 1)
        found[own.name] = rescaling(square, values, hidden)
    return found


def _column_scores(model: Model, calibration: Calibration, name: str) -> np.ndarray:
    seen = calibration.by_weight.get(name)
    if seen is None or name not in model.shapes:
        raise PlanError(f"the calibration has nothing of {name}", "calibrate again")
    square = seen.sum_squares.sum(axis=0) / max(int(seen.count.sum()), 1)
    return by_column(square, column_squares(model, name))


def column_squares(model: Model, name: str) -> np.ndarray:
    """The sum of squares of each column of a weight, float64 [columns], by its GGUF name."""
    tensor = next(one for one in model.tensors if one.name == name)
    total = np.zeros(tensor.columns)
    group = tensor.rows if tensor.transpose else max(len(tensor.order), 1)
    step = max(SLAB // (tensor.columns * group), 1) * group
    for start in range(0, tensor.rows, step):
        stop = min(start + step, tensor.rows)
        rows = assemble(tensor, model.checkpoint.tensors, start, stop)
        total += np.square(rows.astype(np.float64)).sum(axis=0)
    return total
