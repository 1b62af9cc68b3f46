"""Importance: by how much an error in each column of a weight matters, the mean of the squares of
what the column is multiplied with.

It comes from a calibration, or from an importance matrix that llama.cpp has made
(`qconvert.calibration.imatrix`).
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from math import prod
from pathlib import Path

import numpy as np

from qconvert.calibration.types import Calibration, InputStatistics
from qconvert.errors import PlanError
from qconvert.recipes.tensors import Role, can_be_quantized, role_of

HINT = "make one from this model: qconvert calibrate, or llama-imatrix"


@dataclass(frozen=True)
class Importance:
    """An importance matrix.

    Attributes:
        path: the file it came from.
        values: by tensor name, float32 [matrices, columns]; finite, not negative, and no row all
            zero.
        datasets: the texts that it was measured on.
        chunk_count: how many pieces of them.
        chunk_size: tokens of each.
        unseen: by tensor name, the matrices (experts) that no text reached.
        undivided: of a file that does not say how many matrices a weight has: all of them lie end
            to end in one row, until `match_importance` has seen the model.
    """

    path: Path
    values: Mapping[str, np.ndarray]
    datasets: tuple[str, ...] = ()
    chunk_count: int = 0
    chunk_size: int = 0
    unseen: Mapping[str, tuple[int, ...]] = field(default_factory=dict)
    undivided: bool = False


def importance_of(calibration: Calibration) -> Importance:
    """What a calibration says of every weight.

    An expert that no token chose gets the statistics of its whole layer, and is named in `unseen`;
    where no expert saw a token, ones.
    """
    values, unseen = {}, {}
    for name, statistics in calibration.by_weight.items():
        values[name], blank = _mean_squares(statistics)
        if blank:
            unseen[name] = blank
    windows, window = calibration.sample.tokens.shape
    texts = (calibration.sample.source,)
    return Importance(calibration.path, values, texts, windows, window, unseen)


def _mean_squares(statistics: InputStatistics) -> tuple[np.ndarray, tuple[int, ...]]:
    sums = statistics.sum_squares.astype(np.float64)
    counts = statistics.count.astype(np.float64)[:, None]
    whole = sums.sum(axis=0) / max(counts.sum(), 1)
    means = np.divide(sums, counts, out=np.broadcast_to(whole, sums.shape).copy(), where=counts > 0)
    blank = (counts == 0)[:, 0] | ~means.any(axis=1)
    means[~means.any(axis=1)] = 1
    return means.astype(np.float32), tuple(np.flatnonzero(blank).tolist())


def match_importance(
    importance: Importance, tensors: Sequence[tuple[str, tuple[int, ...]]]
) -> tuple[Importance, list[str]]:
    """Whether an importance matrix belongs to a model.

    Args:
        importance: as read.
        tensors: the model's, as (GGUF's name, row-major shape).

    Returns:
        The importance with a row for every matrix of each weight, and warnings, one line each.

    Raises:
        PlanError: it names none of the model's tensors, or one of another size.
    """
    shapes = dict(tensors)
    foreign = [name for name in importance.values if name not in shapes]
    if len(foreign) == len(importance.values):
        raise PlanError(f"{importance.path} belongs to another model: it has {foreign[0]}", HINT)
    if importance.undivided:
        importance = _divide(importance, shapes)
    for name in importance.values:
        if name in shapes:
            _check_size(importance, name, shapes[name])
    missing = [
        name
        for name, shape in tensors
        if name not in importance.values
        and can_be_quantized(name, shape, "")
        and role_of(name) not in (Role.OUTPUT, Role.EMBEDDING)
    ]
    warnings = []
    if missing:
        warnings.append(f"the importance matrix lacks {_some(missing, 'tensor')}")
    if foreign:
        warnings.append(f"the importance matrix has {_some(foreign, 'tensor')} not in the model")
    if line := unseen_line(importance):
        warnings.append(line)
    return importance, warnings


def unseen_line(importance: Importance) -> str:
    """Which matrices no text reached; empty if there are none."""
    unseen = [f"{name}[{i}]" for name, rows in importance.unseen.items() for i in rows]
    return f"calibration never reached {_some(unseen, 'matrix', 'matrices')}" if unseen else ""


def _divide(importance: Importance, shapes: Mapping[str, tuple[int, ...]]) -> Importance:
    """With a row for every matrix, where the sizes agree."""
    values, unseen = dict(importance.values), dict(importance.unseen)
    for name, row in importance.values.items():
        matrices = prod(shapes.get(name, ())[:-2])
        if matrices == 1 or row.size != matrices * shapes[name][-1]:
            continue
        values[name], blank = fill_blank(row.reshape(matrices, -1), np.zeros(matrices, bool))
        # This form has ones for what was never seen.
        ones = np.flatnonzero((values[name] == 1).all(axis=1))
        if blank or ones.size:
            unseen[name] = tuple(sorted({*blank, *ones.tolist()}))
    return replace(importance, values=values, unseen=unseen, undivided=False)


def fill_blank(means: np.ndarray, unseen: np.ndarray) -> tuple[np.ndarray, tuple[int, ...]]:
    """Ones, which prefer nothing, for matrices that are `unseen` or all zero; and which these are.

    means: [matrices, columns]; unseen: bool [matrices].
    """
    blank = unseen | ~means.any(axis=1)
    filled = np.where(blank[:, None], np.float32(1), means).astype(np.float32, copy=False)
    return filled, tuple(np.flatnonzero(blank).tolist())


def _check_size(importance: Importance, name: str, shape: tuple[int, ...]) -> None:
    values = importance.values[name]
    matrices, columns = prod(shape[:-2]), shape[-1]
    if values.shape != (matrices, columns):
        raise PlanError(
            f"{importance.path}: {name} has importances for {_size(*values.shape)}, "
            f"the model's has {_size(matrices, columns)}",
            HINT,
        )


def _size(matrices: int, columns: int) -> str:
    return f"{columns} columns" if matrices == 1 else f"{matrices} x {columns} columns"


def _some(names: Sequence[str], one: str, many: str = "") -> str:
    shown = ", ".join(names[:3]) + (", ..." if len(names) > 3 else "")
    return f"{len(names)} {one if len(names) == 1 else many or one + 's'} ({shown})"
