"""Whether a model's weights lie on the grid of few bits that they were trained for, or were
quantized to before they were written as numbers again: then one type keeps them as they are.

A few rows of every weight are read, and nothing of what is not downloaded: zeros lie on any grid.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from qconvert.checkpoint import TensorInfo, read_rows
from qconvert.errors import CheckpointError
from qconvert.formats.types import block_sizes
from qconvert.model.open import Model
from qconvert.model.roles import can_be_quantized
from qconvert.model.types import TensorMap

ROWS = 2
"""Of each weight that are looked at."""

MOST = 1 << 18
"""Columns of a row that is looked at."""

TYPES = {"TQ2_0": 2, "Q4_0": 4, "MXFP4": 4, "Q4_1": 4}
"""Formats that are tried, the one of fewest bits first, and the bits of their codes."""

SMALLEST = 32
VALUES = 16


@dataclass(frozen=True)
class Grid:
    """A grid that weights lie on.

    Attributes:
        type: the format that keeps them.
        bits: of its codes.
        block: weights that share a scale.
        tensors: how many weights lie on it.
        looked_at: of so many.
    """

    type: str
    bits: int
    block: int
    tensors: int
    looked_at: int


def find_grids(model: Model) -> tuple[Grid, ...]:
    """The grids that the weights of a directory lie on, that of most weights first."""
    tensors = model.checkpoint.tensors
    if model.checkpoint.container != "huggingface":
        return ()
    named = [
        _grid_of(tensors[map_.parts[0].source])
        for map_ in model.tensors
        if _is_looked_at(map_, model.architecture)
    ]
    counts = {type_: named.count(type_) for type_ in TYPES}
    return tuple(
        Grid(type_, TYPES[type_], block_sizes(type_)[0], count, len(named))
        for type_, count in sorted(counts.items(), key=lambda pair: -pair[1])
        if count
    )


def _is_looked_at(map_: TensorMap, architecture: str) -> bool:
    """Whether rows in the source are rows of a weight."""
    stored = map_.parts and not map_.transpose and not map_.reshaped
    return bool(stored) and can_be_quantized(map_.name, map_.shape, architecture)


def _grid_of(info: TensorInfo) -> str:
    """The first format that gives a tensor's rows back; empty for none."""
    if info.columns % SMALLEST or not 0 < info.columns <= MOST or not info.rows:
        return ""
    try:
        x = np.concatenate(list(_rows(info)))
    except CheckpointError:
        return ""  # who reads all of it says what is wrong
    if not np.isfinite(x).all() or not x.any() or not _few_values(x):
        return ""
    from qconvert.formats.ggml.grids import exact_blocks

    dtype = info.dtype if info.dtype in ("F16", "BF16") and info.is_plain else "F32"
    for type_ in TYPES:
        block, _ = block_sizes(type_)
        if info.columns % block:
            continue
        found = exact_blocks(type_, x, dtype)
        filled = x.reshape(len(x), -1, block).any(axis=2)
        if found is not None and np.array_equal(found.mask, filled):
            return type_
    return ""


def _rows(info: TensorInfo) -> Iterator[np.ndarray]:
    for row in np.unique(np.linspace(0, info.rows - 1, ROWS).astype(int)):
        yield read_rows(info, int(row), int(row) + 1)


def _few_values(x: np.ndarray) -> bool:
    """Whether blocks have no more values than codes of 4 bits can stand for. That is told at once,
    and true of next to no other weights."""
    ordered = np.sort(x.reshape(-1, SMALLEST), axis=1)
    different = 1 + np.count_nonzero(np.diff(ordered, axis=1), axis=1)
    return bool((different <= VALUES).all())
