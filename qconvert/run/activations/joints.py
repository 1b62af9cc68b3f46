"""Which inputs of a model can be smoothed, by what, and what becomes of its tensors.

A `Joint` is a place where an input can be divided by channel: the norm or the rows that make it,
the weights that it goes into, and how large both are in each channel.
"""

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass

import numpy as np

from qconvert.algorithms.smooth import factors, storable
from qconvert.calibration.types import Calibration, InputStatistics
from qconvert.errors import PlanError
from qconvert.model.assemble import assemble
from qconvert.model.folding import Fold, folds
from qconvert.model.open import Model
from qconvert.model.types import SLAB_WEIGHTS
from qconvert.model.weights import Weight
from qconvert.plan.statistics import Smoothing

STORED = ("BF16", "F16", "F32")


@dataclass(frozen=True)
class Norm:
    """A norm's weight: what it multiplies with, and how it is stored.

    Attributes:
        values: float32 [columns].
        dtype: "BF16", "F16" or "F32".
        add: what is stored lacks it.
    """

    values: np.ndarray
    dtype: str
    add: float


@dataclass(frozen=True)
class Joint:
    """Where an input can be divided.

    Attributes:
        block: its number.
        inputs: the largest absolute value of each channel, float32 [columns]; of each expert's
            down projection [matrices, columns].
        weights: the largest absolute weight of each column, alike.
        matrices: how many each of the weights has.
        maker_rows: of the tensor that makes the input, of all its matrices; 0 for a norm.
    """

    block: int
    fold: Fold
    inputs: np.ndarray
    weights: np.ndarray
    matrices: tuple[int, ...]
    norm: Norm | None = None
    maker_rows: int = 0

    @property
    def name(self) -> str:
        """The GGUF name of the first weight."""
        return self.fold.weights[0] + ".weight"

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(stem + ".weight" for stem in self.fold.weights)

    def factors(self, alpha: float) -> np.ndarray:
        """By what the channels are divided, float32 of the shape of `inputs`."""
        smooth = factors(self.inputs, self.weights, alpha)
        if alpha == 0 or self.norm is None:
            return smooth
        return storable(self.norm.values, smooth, self.norm.dtype, self.norm.add)


def joints(model: Model, calibration: Calibration) -> tuple[Joint, ...]:
    """Every place of a model, in the order of its blocks. Reads all weights that are there.

    Raises:
        PlanError: nothing can be smoothed, or the calibration lacks an input.
    """
    by_name: dict[str, list[Weight]] = {}
    for weight in model.weights:
        by_name.setdefault(weight.gguf, []).append(weight)
    blocks = 1 + max((weight.block for weight in model.weights), default=-1)
    found = tuple(
        _joint(model, by_name, calibration, block, fold)
        for block in range(blocks)
        for fold in folds(model.family.folds, block, by_name)
    )
    if not found:
        raise PlanError(
            f"nothing in a {model.family.name} can be smoothed: no norm or projection takes "
            "up the factors",
            "leave --smooth out",
        )
    return found


def _joint(
    model: Model,
    by_name: Mapping[str, list[Weight]],
    calibration: Calibration,
    block: int,
    fold: Fold,
) -> Joint:
    statistics = calibration.by_weight.get(fold.weights[0] + ".weight")
    if statistics is None:
        raise PlanError(f"the calibration has no input of {fold.weights[0]}.weight")
    own = [_column_peaks(model, by_name[stem + ".weight"]) for stem in fold.weights]
    matrices = tuple(map(len, own))
    inputs = absolute_peaks(statistics)
    maker = by_name[fold.maker + ".weight"]
    if fold.is_norm:
        norm = _norm(model, maker[0])
        peaks = np.maximum.reduce([each.max(axis=0) for each in own])
        return Joint(block, fold, inputs.max(axis=0), peaks, matrices, norm)
    rows = sum(weight.matrix_map.rows for weight in maker)
    peaks = np.maximum.reduce(own)
    if len(peaks) == 1:
        inputs, peaks = inputs[0], peaks[0]
    return Joint(block, fold, inputs, peaks, matrices, maker_rows=rows)


def absolute_peaks(statistics: InputStatistics) -> np.ndarray:
    """The largest absolute value of each channel, float32 [matrices, columns]; that of all, where
    a matrix was never used."""
    largest = statistics.absmax
    unused = statistics.count == 0
    return np.where(unused[:, None], largest.max(axis=0), largest)


def _column_peaks(model: Model, weights: Iterable[Weight]) -> np.ndarray:
    """float32 [matrices, columns]."""
    found: dict[int, np.ndarray] = {}
    for weight in weights:
        map_ = weight.matrix_map
        step = map_.matrix_rows if map_.transpose else max(SLAB_WEIGHTS // map_.columns, 1)
        group = len(map_.order) or 1
        step = -(-step // group) * group
        for start in range(0, map_.rows, step):
            stop = min(start + step, map_.rows)
            rows = np.abs(assemble(map_, model.checkpoint.tensors, start, stop)).max(axis=0)
            found[weight.matrix] = np.maximum(found.get(weight.matrix, rows), rows)
    return np.stack([found[matrix] for matrix in sorted(found)])


def _norm(model: Model, weight: Weight) -> Norm:
    stored = assemble(weight.map, model.checkpoint.tensors, 0, weight.map.rows).reshape(-1)
    dtype = weight.dtype if weight.dtype in STORED else "F32"
    return Norm(stored + np.float32(weight.add), dtype, weight.add)


def fold_in(
    smoothed: Mapping[str, np.ndarray], places: Iterable[Joint], names: Collection[str]
) -> dict[str, Smoothing]:
    """What every tensor is multiplied with, by its GGUF name.

    Args:
        smoothed: the factors of joints, by the joints' names; those that are not there stay.
        names: the model's GGUF tensors; biases may be among them.
    """
    columns: dict[str, np.ndarray] = {}
    rows: dict[str, np.ndarray] = {}
    for joint in (joint for joint in places if joint.name in smoothed):
        smooth = smoothed[joint.name]
        for stem in (*joint.fold.weights, *joint.fold.routers):
            columns[stem + ".weight"] = smooth
        maker = rows if joint.maker_rows else columns
        for kind in (".weight", ".bias"):
            maker[joint.fold.maker + kind] = _divisors(joint, smooth)
    return {
        name: Smoothing(columns.get(name), rows.get(name))
        for name in dict.fromkeys((*columns, *rows))
        if name in names
    }


def _divisors(joint: Joint, smooth: np.ndarray) -> np.ndarray:
    """1 / s for a norm, or for each row of the tensor that makes the input."""
    inverse: np.ndarray = np.float32(1) / smooth
    if not joint.maker_rows:
        return inverse
    inverse = inverse.reshape(-1, smooth.shape[-1])
    height = joint.maker_rows // len(inverse)
    made = np.ones((len(inverse), height), np.float32)
    first, last = (round(height * share) for share in joint.fold.part)
    made[:, first:last] = inverse
    return made.reshape(-1)
