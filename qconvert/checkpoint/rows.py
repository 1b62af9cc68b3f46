"""Weights: rows of a tensor, read from its file when they are asked for.

Each call opens the file, reads into a fresh buffer with positioned reads and closes it again, so
any number of threads may read at once and no page of the file counts as the process's memory.
"""

import os
from dataclasses import replace
from pathlib import Path

import numpy as np

from qconvert.checkpoint.dtypes import PLAIN, decode, row_bytes
from qconvert.checkpoint.files import reason
from qconvert.checkpoint.types import Codes, Delta, TensorInfo
from qconvert.errors import CheckpointError
from qconvert.formats.safetensors.types import WeightFormat

# Linux reads at most 2 GiB at once.
MAX_READ = 1 << 30
# Weights that are compared at once.
COMPARED = 1 << 22
# How the parts of codes look to the formats of `qconvert.formats.safetensors`.
NUMPY = {
    "I8": np.int8,
    "U8": np.uint8,
    "I32": np.int32,
    "I64": np.int64,
    "F8_E4M3": np.uint8,
    "F8_E8M0": np.uint8,
    "BF16": np.uint16,
    "F16": np.float16,
    "F32": np.float32,
}
# The most that is read at once to pick the elements of a transposed tensor.
MAX_SPAN = 16 << 20


def read_rows(tensor: TensorInfo, start: int, stop: int) -> np.ndarray:
    """Rows `start` to `stop` as numbers, scales applied.

    Args:
        tensor: what to read; its outer dimensions count as one, `tensor.rows` long.
        start, stop: 0 <= start <= stop <= tensor.rows.

    Returns:
        float32 [stop - start, columns], C order, the caller's own.

    Raises:
        CheckpointError: the file cannot be read or has become too short.
    """
    if tensor.delta is not None:
        own = replace(tensor, delta=None)
        return _with_delta(read_rows(own, start, stop), tensor.delta, start, stop)
    if tensor.codes is not None:
        return _read_codes(tensor, tensor.codes, start, stop)
    values = decode(tensor.dtype, read_bytes(tensor, start, stop), tensor.columns)
    if tensor.scale is not None:
        _apply_scale(values, tensor, tensor.scale, start, stop)
    return values


def _with_delta(values: np.ndarray, delta: Delta, start: int, stop: int) -> np.ndarray:
    """Rows with what an adapter adds to them."""
    up, down = delta.up, delta.down
    if delta.turned:
        left = np.ascontiguousarray(read_rows(down, 0, down.rows)[:, start:stop].T)
        right = np.ascontiguousarray(read_rows(up, 0, up.rows).T)
    else:
        left, right = read_rows(up, start, stop), read_rows(down, 0, down.rows)
    merged: np.ndarray = values + np.float32(delta.scale) * (left @ right)
    if delta.magnitude is not None:
        wanted = read_rows(delta.magnitude, 0, delta.magnitude.rows).reshape(-1)[start:stop]
        norms = np.linalg.norm(merged, axis=1)
        merged *= (wanted / np.maximum(norms, np.finfo(np.float32).tiny))[:, None]
    return merged


def have_equal_values(one: TensorInfo, other: TensorInfo) -> bool:
    """Whether two tensors hold the same numbers, whatever they are stored as.

    Raises:
        CheckpointError: a file cannot be read.
    """
    if one.shape != other.shape:
        return False
    step = max(COMPARED // max(one.columns, 1), 1)
    return all(
        np.array_equal(read_rows(one, start, stop), read_rows(other, start, stop), equal_nan=True)
        for start in range(0, one.rows, step)
        for stop in (min(start + step, one.rows),)
    )


def read_bytes(tensor: TensorInfo, start: int, stop: int) -> np.ndarray:
    """Rows `start` to `stop` as they are stored: uint8 [stop - start, row_bytes]."""
    if not 0 <= start <= stop <= tensor.rows:
        raise ValueError(f"rows {start} to {stop} of {tensor.name}, which has {tensor.rows}")
    if tensor.codes is not None:
        raise ValueError(f"{tensor.name} is stored as several tensors")
    width = row_bytes(tensor.dtype, tensor.columns)
    if tensor.strides is not None:
        return _read_strided(tensor, tensor.strides, start, stop)
    raw = np.empty((stop - start, width), np.uint8)
    pread(tensor.path, tensor.offset + start * width, raw, tensor.name)
    return raw


def pread(path: Path, offset: int, out: np.ndarray, name: str) -> None:
    """Fill a uint8 array from a byte offset of a tensor's file."""
    view = out.reshape(-1).data
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except OSError as error:
        raise CheckpointError(f"{path}: {reason(error)}") from error
    try:
        done = 0
        while done < len(view):
            count = os.preadv(fd, [view[done : done + MAX_READ]], offset + done)
            if count == 0:
                raise CheckpointError(
                    f"{path}: the file ends inside tensor {name!r:.200}",
                    "it became shorter after it was opened: download or copy it again",
                )
            done += count
    except OSError as error:
        raise CheckpointError(f"{path}: tensor {name!r:.200}: {reason(error)}") from error
    finally:
        os.close(fd)


def _read_strided(
    tensor: TensorInfo, strides: tuple[int, ...], start: int, stop: int
) -> np.ndarray:
    """Gather a view's rows: read the span that a few of its rows or columns lie in, and pick."""
    item = PLAIN[tensor.dtype]
    out = np.empty((stop - start, tensor.columns, item), np.uint8)
    step = strides[-1]
    gap = strides[-2] if len(strides) > 1 else 0
    some = max(1, MAX_SPAN // item // max(step, 1))
    many = max(1, MAX_SPAN // item // max(gap, 1))
    for first, last, base in _runs(tensor.shape[:-1], strides[:-1], start, stop):
        for left in range(0, tensor.columns, some):
            columns = min(some, tensor.columns - left)
            for row in range(first, last, many):
                rows = min(many, last - row)
                begin = base + (row - first) * gap + left * step
                span = np.empty(((rows - 1) * gap + (columns - 1) * step + 1) * item, np.uint8)
                pread(tensor.path, tensor.offset + begin * item, span, tensor.name)
                picked = np.lib.stride_tricks.as_strided(
                    span, (rows, columns, item), (gap * item, step * item, 1)
                )
                top = row - start
                out[top : top + rows, left : left + columns] = picked
    return out.reshape(stop - start, tensor.columns * item)


def _runs(
    shape: tuple[int, ...], strides: tuple[int, ...], start: int, stop: int
) -> list[tuple[int, int, int]]:
    """(first, last, element of the first) of the runs that share all but the last outer index."""
    inner = shape[-1] if shape else 1
    runs = []
    while start < stop:
        last = min(stop, (start // inner + 1) * inner)
        index, base = start, 0
        for size, stride in zip(reversed(shape), reversed(strides), strict=True):
            base += index % size * stride
            index //= size
        runs.append((start, last, base))
        start = last
    return runs


def _read_codes(tensor: TensorInfo, codes: Codes, start: int, stop: int) -> np.ndarray:
    """Rows of a weight that is stored as codes and scales."""
    if not isinstance(codes.form, WeightFormat):
        from qconvert.checkpoint.quantized.read import read_quantized

        return read_quantized(tensor, codes, codes.form, start, stop)
    from qconvert.formats.safetensors.layouts import format_of

    format_ = format_of(codes.form)
    rows, columns = tensor.shape[::-1] if codes.turned else tensor.shape
    step, first, last = format_.row_step, 0, rows
    if not codes.turned:
        first, last = start // step * step, min(-(-stop // step) * step, rows)
    above, through = (format_.parts((count, columns)) for count in (first, last))
    arrays = []
    for top, end in zip(above, through, strict=True):
        if top.suffix == "weight_shape":
            arrays.append(np.array([last - first, columns], np.int64))
            continue
        part = codes.parts[top.suffix]
        whole = codes.turned or not top.per_row
        array = _read_part(part, *((0, part.rows) if whole else (top.shape[0], end.shape[0])))
        turned = codes.turned and top.suffix == "weight"
        arrays.append(np.ascontiguousarray(array.T) if turned else array)
    made = format_.dequantize(tuple(arrays))
    if codes.turned:
        return np.ascontiguousarray(made.T[start:stop])
    return made[start - first : stop - first]


def _read_part(part: TensorInfo, start: int, stop: int) -> np.ndarray:
    """Rows of codes or scales as formats want them."""
    raw = read_bytes(part, start, stop)
    return raw.view(NUMPY[part.dtype]).reshape(stop - start, *part.shape[1:])


def _apply_scale(
    values: np.ndarray, tensor: TensorInfo, scale: TensorInfo, start: int, stop: int
) -> None:
    height, width = tensor.block
    # Of each matrix (an expert's, where there are several), the last block may be cut short.
    matrix = tensor.shape[-2] if len(tensor.shape) > 1 else 1
    blocks = -(-matrix // height)
    if start == stop:
        return
    top = start // matrix * blocks + start % matrix // height
    bottom = (stop - 1) // matrix * blocks + (stop - 1) % matrix // height
    factors = read_rows(scale, top, bottom + 1)
    row = start
    for factor in factors:
        inner = row % matrix
        last = min(stop, row - inner + min(matrix, (inner // height + 1) * height))
        values[row - start : last - start] *= np.repeat(factor, width)[: tensor.columns]
        row = last
