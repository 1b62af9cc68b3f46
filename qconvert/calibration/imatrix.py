"""llama.cpp's importance matrix: how strongly the inputs of each weight's columns were driven.

    general.type          "imatrix"
    imatrix.datasets      names of the texts
    imatrix.chunk_count   how many pieces of text, imatrix.chunk_size tokens each
    <name>.in_sum2        F32 [matrices, columns]: sum of the squared inputs of each column
    <name>.counts         F32 [matrices, 1]: over how many tokens; one matrix per expert

The importance of a column is the mean, sum over count. A matrix that was never seen (an expert
that no token chose) has no preference: ones, and it is reported. The older binary form is read
by `qconvert.calibration.imatrix_dat`.

Source: llama.cpp's tools/imatrix (the writer) and common/imatrix-loader.cpp.
"""

from collections.abc import Mapping
from pathlib import Path

import numpy as np

from qconvert.calibration.imatrix_dat import is_dat, read_dat
from qconvert.calibration.importance import Importance, fill_blank
from qconvert.checkpoint.files import file_size, read_bytes_at
from qconvert.checkpoint.gguf import read_gguf
from qconvert.checkpoint.metadata import Metadata
from qconvert.checkpoint.types import TensorInfo
from qconvert.errors import CheckpointError

SUMS = ".in_sum2"
COUNTS = ".counts"
MADE_BY = "an importance matrix is a file that llama-imatrix writes, in its GGUF or .dat form"


def read_importance(path: Path) -> Importance:
    """Reads an importance matrix in llama.cpp's GGUF form, or in its older binary form.

    Raises:
        CheckpointError: the file is no importance matrix, or a tensor in it is wrong.
    """
    if read_bytes_at(path, 0, min(4, file_size(path))) != b"GGUF":
        if is_dat(path):
            return read_dat(path)
        raise CheckpointError(f"{path} is not an importance matrix", MADE_BY)
    metadata, tensors = read_gguf(path)
    kind = metadata.get("general.type")
    if kind is None or kind.value != "imatrix":
        raise CheckpointError(f"{path} is not an importance matrix but another GGUF file", MADE_BY)
    values, unseen = {}, {}
    for name in _names(path, tensors):
        sums = _read(path, tensors[name + SUMS])
        counts = _read(path, tensors[name + COUNTS])
        values[name], blank = _mean(path, name, sums, counts)
        if blank:
            unseen[name] = blank
    if not values:
        raise CheckpointError(f"{path} holds no importances", MADE_BY)
    return Importance(
        path,
        values,
        _texts(metadata, "imatrix.datasets"),
        _number(metadata, "imatrix.chunk_count"),
        _number(metadata, "imatrix.chunk_size"),
        unseen,
    )


def _names(path: Path, tensors: Mapping[str, TensorInfo]) -> list[str]:
    """Names of the weights, in the file's order, each with its sums and its counts."""
    names = dict.fromkeys(
        tensor.removesuffix(suffix)
        for tensor in tensors
        for suffix in (SUMS, COUNTS)
        if tensor.endswith(suffix)
    )
    for name in names:
        for suffix in (SUMS, COUNTS):
            if name + suffix not in tensors:
                raise CheckpointError(f"{path}: {name} has no {suffix[1:]}", MADE_BY)
    return list(names)


def _read(path: Path, tensor: TensorInfo) -> np.ndarray:
    if tensor.dtype != "F32" or not tensor.elements:
        raise CheckpointError(f"{path}: {tensor.name} must be F32 and not empty")
    data = read_bytes_at(path, tensor.offset, tensor.nbytes)
    if len(data) != tensor.nbytes:
        raise CheckpointError(f"{path}: {tensor.name} is cut short")
    return np.frombuffer(data, "<f4").reshape(tensor.rows, tensor.columns)


def _mean(
    path: Path, name: str, sums: np.ndarray, counts: np.ndarray
) -> tuple[np.ndarray, tuple[int, ...]]:
    """Sums over counts, float32 [matrices, columns], and the matrices that were never seen."""
    if counts.size not in (1, len(sums)):
        raise CheckpointError(
            f"{path}: {name} has sums for {len(sums)} matrices and counts for {counts.size}"
        )
    for what, array in (("sums", sums), ("counts", counts)):
        if not np.isfinite(array).all():
            raise CheckpointError(f"{path}: {name} has {what} that are NaN or infinite")
        if (array < 0).any():
            raise CheckpointError(f"{path}: {name} has {what} below zero")
    count = np.floor(counts.reshape(-1, 1) + np.float32(0.5))
    means = sums / np.maximum(count, np.float32(1))
    return fill_blank(means, (count == 0)[:, 0])


def _texts(metadata: Metadata, key: str) -> tuple[str, ...]:
    value = metadata[key].value if key in metadata else ()
    items = value if isinstance(value, list | tuple) else ()
    return tuple(item for item in items if isinstance(item, str))


def _number(metadata: Metadata, key: str) -> int:
    value = metadata[key].value if key in metadata else 0
    return value if isinstance(value, int) and value >= 0 else 0
