"""Rows of a GGUF tensor, put together from the rows of a checkpoint's tensors."""

from collections.abc import Callable, Iterator, Mapping

import numpy as np

from qconvert.checkpoint import TensorInfo, read_bytes, read_rows
from qconvert.model.types import Rows, TensorMap

Tensors = Mapping[str, TensorInfo]


def assemble(tensor: TensorMap, tensors: Tensors, start: int, stop: int) -> np.ndarray:
    """Rows `start` to `stop` of a tensor.

    Args:
        tensors: the checkpoint's, by name.
        start, stop: multiples of `len(tensor.order)`; the whole tensor if it is transposed.

    Returns:
        float32, [stop - start, columns], C order, the caller's to change.
    """
    if tensor.value is not None:
        return tensor.value.astype(np.float32).reshape(tensor.rows, tensor.columns)[start:stop]
    if tensor.transpose:
        source = tensors[tensor.parts[0].source]
        return np.ascontiguousarray(read_rows(source, 0, source.rows).T)[start:stop]
    rows = _gather(tensor, start, stop, lambda part: _read(tensors, part, read_rows))
    rows = rows.reshape(stop - start, tensor.columns)
    if tensor.add:
        rows = rows + np.float32(tensor.add)
    return rows


def assemble_bytes(tensor: TensorMap, tensors: Tensors, start: int, stop: int) -> np.ndarray:
    """The same rows as they are stored: uint8, [stop - start, row bytes].

    Only for tensors that are moved and not computed (no `add`, `transpose` or `value`).
    """
    return _gather(tensor, start, stop, lambda part: _read(tensors, part, read_bytes))


def _read(tensors: Tensors, part: Rows, read: Callable[..., np.ndarray]) -> np.ndarray:
    return read(tensors[part.source], part.start, part.stop)


def _gather(
    tensor: TensorMap, start: int, stop: int, read: Callable[[Rows], np.ndarray]
) -> np.ndarray:
    pieces = [read(part) for part in _overlapping(tensor.parts, start, stop)]
    rows = pieces[0] if len(pieces) == 1 else np.concatenate(pieces)
    if tensor.order:
        group = len(tensor.order)
        count = tensor.columns if len(tensor.shape) == 1 else len(rows)
        grouped = rows.reshape(count // group, group, -1)
        rows = grouped[:, np.array(tensor.order)].reshape(rows.shape)
    return rows


def _overlapping(parts: tuple[Rows, ...], start: int, stop: int) -> Iterator[Rows]:
    """The source rows of output rows `start` to `stop`."""
    position = 0
    for part in parts:
        count = part.stop - part.start
        first, last = max(start - position, 0), min(stop - position, count)
        if first < last:
            yield Rows(part.source, part.start + first, part.start + last)
        position += count
