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

from qconvert.calibration.types import FEW_TOKENS, Calibration, InputStatistics
from qconvert.errors import PlanError
from qconvert.model.roles import Role, can_be_quantized, role_of

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
        rare: those that so few tokens reached that they have the importance of their whole layer.
        means: by tensor name, the mean of each column's input, float32 [matrices, columns]; empty
            where it is not known, which it never is from llama.cpp's files.
        undivided: of a file that does not say how many matrices a weight has: all of them lie end
            to end in one row, until `match_importance` has seen the model.
    """

    path: Path
    values: Mapping[str, np.ndarray]
    datasets: tuple[str, ...] = ()
    chunk_count: int = 0
    chunk_size: int = 0
    unseen: Mapping[str, tuple[int, ...]] = field(default_factory=dict)
    rare: Mapping[str, tuple[int, ...]] = field(default_factory=dict)
    means: Mapping[str, np.ndarray] = field(default_factory=dict)
    undivided: bool = False


def importance_of(calibration: Calibration) -> Importance:
    """What a calibration says of every weight.

    Experts that fewer than FEW_TOKENS tokens reached get the mean of their whole layer, and are
    named in `rare`, or in `unseen` where no token did; ones where no expert saw anything.
    """
    values, means = {}, {}
    unseen: dict[str, tuple[int, ...]] = {}
    rare: dict[str, tuple[int, ...]] = {}
    for name, one in calibration.by_weight.items():
        values[name] = _mean_squares(one)
        # What few tokens say of an expert's mean is not to be trusted.
        few = (one.count < FEW_TOKENS) & (one.matrices > 1)
        means[name] = np.where(few[:, None], np.float32(0), one.mean)
        for found, which in ((unseen, one.count == 0), (rare, few & (one.count > 0))):
            if which.any():
                found[name] = tuple(np.flatnonzero(which).tolist())
    windows, window = calibration.sample.tokens.shape
    texts = (calibration.sample.source,)
    return Importance(calibration.path, values, texts, windows, window, unseen, rare, means)


def _mean_squares(statistics: InputStatistics) -> np.ndarray:
    """float32 [matrices, columns]."""
    sums = statistics.sum_squares.astype(np.float64)
    counts = statistics.count.astype(np.float64)[:, None]
    means = sums / np.maximum(counts, 1)
    if statistics.matrices > 1:
        whole = sums.sum(axis=0) / max(counts.sum(), 1)
        means = np.where(counts < FEW_TOKENS, whole, means)
    return fill_blank(means, np.zeros(statistics.matrices, bool))[0]


def match_importance(
    importance: Importance, shapes: Mapping[str, tuple[int, ...]]
) -> tuple[Importance, list[str]]:
    """Whether an importance matrix belongs to a model.

    Args:
        importance: as read.
        shapes: of the model's tensors, row-major, by GGUF's names.

    Returns:
        The importance with a row for every matrix of each weight, and warnings, one line each.

    Raises:
        PlanError: it names none of the model's tensors, or one of another size.
    """
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
        for name, shape in shapes.items()
        if name not in importance.values
        and can_be_quantized(name, shape, "")
        and role_of(name) not in (Role.OUTPUT, Role.EMBEDDING)
    ]
    warnings = []
    if missing:
        warnings.append(f"the importance matrix lacks {_some(missing, 'tensor')}")
    if foreign:
        warnings.append(f"the importance matrix has {_some(foreign, 'tensor')} not in the model")
    return importance, warnings + reach_lines(importance)


def reach_lines(importance: Importance) -> list[str]:
    """Which matrices no text reached, and which only a few tokens: up to two lines."""
    unseen, rare = (
        [f"{name}[{i}]" for name, rows in found.items() for i in rows]
        for found in (importance.unseen, importance.rare)
    )
    lines = []
    if unseen:
        lines.append(f"calibration never reached {_some(unseen, 'matrix', 'matrices')}")
    if rare:
        lines.append(
            f"fewer than {FEW_TOKENS} tokens reached {_some(rare, 'matrix', 'matrices')}: "
            "the importance is that of the whole layer"
        )
    return lines


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
