"""Rows of a GGUF tensor, put together from the rows of a checkpoint's tensors."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace

import numpy as np

from qconvert.checkpoint import TensorInfo, read_rows
from qconvert.checkpoint.blocks import read_blocks
from qconvert.model.transforms import Some
from qconvert.model.types import Rows, TensorMap

Tensors = Mapping[str, TensorInfo]


def assemble(tensor: TensorMap, tensors: Tensors, start: int, stop: int) -> np.ndarray:
    """Rows `start` to `stop` of a tensor.

    Args:
        tensors: the checkpoint's, by name.
        start, stop: multiples of `len(tensor.order)`.

    Returns:
        float32, [stop - start, columns], C order, the caller's to change.
    """
    if tensor.value is not None:
        return tensor.value.astype(np.float32).reshape(tensor.rows, tensor.columns)[start:stop]
    if tensor.transpose:
        rows = _transposed(tensor, tensors, start, stop)
    elif tensor.reshaped:
        rows = _reshaped(tensor, tensors, start, stop)
    else:
        rows = _gather(tensor, start, stop, lambda part: _read(tensors, part, read_rows))
        rows = rows.reshape(stop - start, tensor.columns)
    if tensor.add:
        rows = rows + np.float32(tensor.add)
    for step in tensor.steps:
        rows = step.apply(rows)
    return np.ascontiguousarray(rows, np.float32)


def _transposed(tensor: TensorMap, tensors: Tensors, start: int, stop: int) -> np.ndarray:
    """Of each matrix, stored [columns, rows]; only those that are reached are read."""
    height, width = tensor.matrix_rows, tensor.columns
    first, last = start // height, -(-stop // height)
    stored = _gather(tensor, first * width, last * width, lambda p: _read(tensors, p, read_rows))
    stored = stored.reshape(last - first, width, height)
    rows: np.ndarray = stored.swapaxes(1, 2).reshape(-1, width)
    return rows[start - first * height : stop - first * height]


def _reshaped(tensor: TensorMap, tensors: Tensors, start: int, stop: int) -> np.ndarray:
    """The same elements in other rows; only the stored rows that hold them are read."""
    columns = tensors[tensor.parts[0].source].columns
    begin, end = start * tensor.columns, stop * tensor.columns
    first, last = begin // columns, -(-end // columns)
    flat = _read_run(tensor.parts[0], tensors, first, last).reshape(-1)
    begin -= first * columns
    return flat[begin : begin + (stop - start) * tensor.columns].reshape(-1, tensor.columns)


def _read_run(part: Rows, tensors: Tensors, first: int, last: int) -> np.ndarray:
    """Rows `first` to `last` of a part without strides."""
    run = replace(part, start=part.start + first, stop=part.start + last)
    return _read(tensors, run, read_rows)


def assemble_bytes(tensor: TensorMap, tensors: Tensors, start: int, stop: int) -> np.ndarray:
    """The same rows in the bytes that their codes have: uint8, [stop - start, row bytes].

    Only for tensors that are moved and not computed; of those that are stored [in, out], whose
    codes are [out, in].
    """
    if tensor.transpose:
        (part,) = tensor.parts
        taken = next((step for step in part.steps if isinstance(step, Some)), Some(0, stop))
        first, last = taken.start + start * taken.stride, stop * taken.stride
        blocks = read_blocks(tensors[part.source], first, last)
        return np.ascontiguousarray(blocks[:: taken.stride])
    return _gather(tensor, start, stop, lambda part: _read(tensors, part, read_blocks))


def _read(tensors: Tensors, part: Rows, read: Callable[..., np.ndarray]) -> np.ndarray:
    rows = read(tensors[part.source], part.start, part.stop)
    if part.stride > 1 or part.steps:
        rows = rows.reshape(part.stop - part.start, -1)[:: part.stride]
    for step in part.steps:
        rows = step.apply(rows)
    return rows


def _gather(
    tensor: TensorMap, start: int, stop: int, read: Callable[[Rows], np.ndarray]
) -> np.ndarray:
    pieces = [read(part) for part in overlapping(tensor.parts, start, stop)]
    rows = pieces[0] if len(pieces) == 1 else np.concatenate(pieces)
    if tensor.order:
        group = len(tensor.order)
        count = tensor.columns if len(tensor.shape) == 1 else len(rows)
        grouped = rows.reshape(count // group, group, -1)
        rows = grouped[:, np.array(tensor.order)].reshape(rows.shape)
    return rows


def overlapping(parts: tuple[Rows, ...], start: int, stop: int) -> Iterator[Rows]:
    """The source rows of output rows `start` to `stop`."""
    position = 0
    for part in parts:
        first, last = max(start - position, 0), min(stop - position, len(part))
        if first < last:
            begin, end = (part.start + part.stride * row for row in (first, last - 1))
            yield replace(part, start=begin, stop=end + 1)
        position += len(part)
