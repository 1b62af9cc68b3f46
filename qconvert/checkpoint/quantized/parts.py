"""The tensors that a quantized weight is stored as: what they have to be, and how they are read."""

import os
from collections.abc import Collection, Mapping
from math import prod

import numpy as np

from qconvert.checkpoint.files import reason
from qconvert.checkpoint.foreign import ORIGINAL
from qconvert.checkpoint.quantized.layouts import Layout
from qconvert.checkpoint.rows import NUMPY, pread, read_bytes, read_rows
from qconvert.checkpoint.types import Codes, TensorInfo
from qconvert.errors import CheckpointError, UnsupportedError

Parts = Mapping[str, TensorInfo]
"""The tensors of a layer, by how their names end."""

FLOATS = ("F16", "BF16", "F32")
MAX_SIZE = 1 << 31
# Where so little of each row is wanted, rows are read one by one.
SPARSE = 4
MISFIT = "the file may be of another layout than config.json says"


def need(parts: Parts, stem: str, ending: str, dtypes: Collection[str]) -> TensorInfo:
    """A tensor that has to be there.

    Raises:
        CheckpointError: it is missing, empty or of another dtype.
        UnsupportedError: it is stored transposed.
    """
    info = parts.get(ending)
    if info is None:
        raise CheckpointError(f"the tensor {stem + ending!r:.200} is missing")
    if info.dtype not in dtypes:
        raise CheckpointError(
            f"{info.name!r:.200} is {info.dtype}, and {' or '.join(dtypes)} was expected", MISFIT
        )
    if not info.elements:
        raise CheckpointError(f"{info.name} is empty (shape {list(info.shape)})")
    if info.strides is not None:
        raise UnsupportedError(f"{info.name!r:.200} is stored transposed", ORIGINAL)
    return info


def matrix(info: TensorInfo) -> tuple[int, int]:
    """The rows and columns of a tensor with two dimensions.

    Raises:
        CheckpointError: it has other ones.
    """
    if len(info.shape) != 2:
        raise CheckpointError(f"{info.name!r:.200} has shape {list(info.shape)}, not two", MISFIT)
    return info.shape[0], info.shape[1]


def check_shape(info: TensorInfo, shape: tuple[int, ...]) -> None:
    """Refuse a tensor of another shape."""
    if info.shape != shape:
        raise CheckpointError(
            f"{info.name!r:.200} has shape {list(info.shape)}, and {list(shape)} fits its weight",
            MISFIT,
        )


def weight(
    name: str, shape: tuple[int, ...], layout: Layout, parts: Parts, turned: bool = False
) -> TensorInfo:
    """A weight by the tensors that it is stored as.

    Args:
        shape: of its codes, [out, in], or of several matrices [experts, out, in].
        parts: the codes first.
        turned: the weight is [in, out].
    """
    if turned:
        shape = (*shape[:-2], shape[-1], shape[-2])
    first = next(iter(parts.values()))
    return TensorInfo(
        name,
        shape,
        layout.dtype,
        first.path,
        first.offset,
        first.nbytes,
        codes=Codes(layout, parts, turned),
    )


def read_part(info: TensorInfo, start: int = 0, stop: int | None = None) -> np.ndarray:
    """Rows of codes, [stop - start, columns], of the dtype that `NUMPY` has for them."""
    stop = info.rows if stop is None else stop
    return read_bytes(info, start, stop).view(NUMPY[info.dtype]).reshape(stop - start, -1)


def read_floats(info: TensorInfo) -> np.ndarray:
    """All of a tensor, float32 [elements]."""
    return read_rows(info, 0, info.rows).reshape(-1)


def read_flat(info: TensorInfo, start: int, stop: int) -> np.ndarray:
    """Elements `start` to `stop` as they are stored, whatever the rows."""
    item = np.dtype(NUMPY[info.dtype]).itemsize
    raw = np.empty((stop - start) * item, np.uint8)
    pread(info.path, info.offset + start * item, raw, info.name)
    return raw.view(NUMPY[info.dtype])


def read_columns(info: TensorInfo, start: int, stop: int) -> np.ndarray:
    """Columns `start` to `stop` of all rows, [rows, stop - start], as they are stored.

    What libraries pack along the inputs lies so that a weight's rows are columns: where few are
    wanted, only these are read.
    """
    rows, columns = info.rows, info.columns
    if (stop - start) * SPARSE >= columns:
        return np.ascontiguousarray(read_part(info)[:, start:stop])
    item = np.dtype(NUMPY[info.dtype]).itemsize
    out = np.empty((rows, (stop - start) * item), np.uint8)
    width = out.shape[1]
    try:
        descriptor = os.open(info.path, os.O_RDONLY | os.O_CLOEXEC)
    except OSError as error:
        raise CheckpointError(f"{info.path}: {reason(error)}") from error
    try:
        place = info.offset + start * item
        for row in range(rows):
            if os.preadv(descriptor, [out[row]], place) != width:
                raise CheckpointError(f"{info.path}: the file ends inside {info.name!r:.200}")
            place += columns * item
    except OSError as error:
        raise CheckpointError(f"{info.path}: {info.name!r:.200}: {reason(error)}") from error
    finally:
        os.close(descriptor)
    return out.view(NUMPY[info.dtype])


def check_size(name: str, shape: tuple[int, ...]) -> None:
    """Refuse a shape that no weight has, before memory is asked for."""
    if not all(0 < size < MAX_SIZE for size in shape) or prod(shape) >= 1 << 48:
        raise CheckpointError(f"{name}: impossible shape {list(shape)!s:.80}", MISFIT)
