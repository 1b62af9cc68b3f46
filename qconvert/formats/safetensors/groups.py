"""Which weights share a scale, and the least and greatest of them."""

from collections.abc import Callable, Sequence
from math import prod

import numpy as np

from qconvert.errors import PlanError
from qconvert.formats.safetensors.scales import ITEM_BYTES
from qconvert.formats.safetensors.types import Params, WeightFormat
from qconvert.formats.types import Part


def group_columns(form: WeightFormat, columns: int) -> int:
    """How many weights of a row share a scale; with "block" the last ones may be fewer.

    Raises:
        PlanError: the group does not divide the row.
    """
    if form.strategy == "group":
        size = form.group_size or 0
        if size < 1 or columns % size:
            raise PlanError(
                f"groups of {size} do not divide rows of {columns} weights",
                "choose a group that divides them",
            )
        return size
    return form.block[1] if form.block is not None else columns


def scale_shape(form: WeightFormat, rows: int, columns: int) -> tuple[int, int]:
    """Of the scales of so many rows; [1, 1] with "tensor"."""
    if form.strategy == "tensor":
        return 1, 1
    height = form.block[0] if form.block is not None else 1
    return -(-rows // height), -(-columns // group_columns(form, columns))


def scale_part(form: WeightFormat, shape: tuple[int, int], dtype: str) -> Part:
    """The scales of a weight of `shape`."""
    scales = (1,) if form.strategy == "tensor" else scale_shape(form, *shape)
    nbytes = prod(scales) * ITEM_BYTES[dtype]
    return Part("weight_scale", scales, dtype, nbytes, form.strategy != "tensor")


def by_row(values: np.ndarray, form: WeightFormat, rows: int) -> np.ndarray:
    """Values of the shape of scales as those of every row, float32 [rows, groups of a row]."""
    if form.strategy == "tensor":
        values = np.broadcast_to(values, (rows, 1))
    elif form.block is not None:
        values = np.repeat(values, form.block[0], axis=0)[:rows]
    return np.ascontiguousarray(values, np.float32)


def by_scale(values: np.ndarray, form: WeightFormat) -> np.ndarray:
    """The reverse: of rows that share a scale, the mean."""
    height = len(values) if form.strategy == "tensor" else form.block[0] if form.block else 1
    starts = np.arange(0, len(values), height)
    counts = np.diff(np.append(starts, len(values)))[:, None]
    means = np.add.reduceat(values.astype(np.float64), starts) / counts
    return np.asarray(means, np.float32)


def multiply(x: np.ndarray, form: WeightFormat, steps: np.ndarray) -> np.ndarray:
    """Values [rows, columns], in place, times steps of the shape of scales."""
    rows, columns = x.shape
    wide = np.repeat(by_row(steps, form, rows), group_columns(form, columns), axis=1)
    x *= wide[:, :columns]
    return x


def group_extremes(form: WeightFormat, x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The least and the greatest weights, float32 of the shape of scales.

    With "tensor" they are those of these rows alone.
    """
    from qconvert.kernels import ranges

    rows, columns = x.shape
    size = group_columns(form, columns)
    low = np.empty((rows, -(-columns // size)), np.float32)
    high = np.empty_like(low)
    ranges.extremes(x.reshape(-1), columns, size, low.reshape(-1), high.reshape(-1))
    height = rows if form.strategy == "tensor" else form.block[0] if form.block else 1
    starts = np.arange(0, rows, height)
    return np.minimum.reduceat(low, starts), np.maximum.reduceat(high, starts)


def by_block(
    block: tuple[int, int], x: np.ndarray, function: Callable[[np.ndarray], float]
) -> np.ndarray:
    """What a function makes of each block, float32; at the edges of a part of one."""
    (rows, columns), (height, width) = x.shape, block
    return np.array(
        [
            [function(x[i : i + height, j : j + width]) for j in range(0, columns, width)]
            for i in range(0, rows, height)
        ],
        np.float32,
    )


def joined(params: Sequence[Params]) -> Params:
    """The params of whole rows, of those of their groups from the first to the last."""
    first = params[0]
    shape = first.shape[0], sum(one.shape[1] for one in params)
    if len(params) == 1:
        return first
    zeros = [one.zero_point for one in params if one.zero_point is not None]
    scale = np.hstack([one.scale for one in params])
    return Params(shape, scale, np.hstack(zeros) if zeros else None, first.global_scale)
