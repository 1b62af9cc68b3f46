"""llama.cpp's importance matrix: how strongly the inputs of each weight's columns were driven.

    general.type          "imatrix"
    imatrix.datasets      names of the texts
    imatrix.chunk_count   how many pieces of text, imatrix.chunk_size tokens each
    <name>.in_sum2        F32 [matrices, columns]: sum of the squared inputs of each column
    <name>.counts         F32 [matrices, 1]: over how many tokens; one matrix per expert

The importance of a column is the mean, sum over count. A matrix that was never seen (an expert
that no token chose) has no preference: ones, and it is reported.

Source: llama.cpp's tools/imatrix (the writer) and common/imatrix-loader.cpp.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from math import prod
from pathlib import Path

import numpy as np

from qconvert.checkpoint.files import file_size, read_bytes_at
from qconvert.checkpoint.gguf import read_gguf
from qconvert.checkpoint.types import TensorInfo
from qconvert.errors import CheckpointError, PlanError, UnsupportedError
from qconvert.metadata import Metadata
from qconvert.recipes.tensors import Role, can_be_quantized, role_of

SUMS = ".in_sum2"
COUNTS = ".counts"
MADE_BY = "an importance matrix is a GGUF file that llama-imatrix writes"


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
        unseen: by tensor name, the matrices (experts) that no text reached, whose values are ones.
    """

    path: Path
    values: Mapping[str, np.ndarray]
    datasets: tuple[str, ...] = ()
    chunk_count: int = 0
    chunk_size: int = 0
    unseen: Mapping[str, tuple[int, ...]] = field(default_factory=dict)


def read_importance(path: Path) -> Importance:
    """Reads an importance matrix in llama.cpp's GGUF form.

    Raises:
        CheckpointError: the file is no importance matrix, or a tensor in it is wrong.
        UnsupportedError: it is in the older binary form.
    """
    if read_bytes_at(path, 0, min(4, file_size(path))) != b"GGUF":
        raise _not_gguf(path)
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


def check_importance(
    importance: Importance, tensors: Sequence[tuple[str, tuple[int, ...]]]
) -> list[str]:
    """Whether an importance matrix belongs to a model; returns warnings, one line each.

    Args:
        importance: as read.
        tensors: the model's, as (GGUF's name, row-major shape).

    Raises:
        PlanError: it names none of the model's tensors, or one of another size.
    """
    shapes = dict(tensors)
    foreign = [name for name in importance.values if name not in shapes]
    if len(foreign) == len(importance.values):
        raise PlanError(
            f"{importance.path} belongs to another model: it has {foreign[0]}",
            "make one from this model with llama-imatrix",
        )
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
    unseen = [f"{name}[{i}]" for name, rows in importance.unseen.items() for i in rows]
    if unseen:
        warnings.append(f"calibration never reached {_some(unseen, 'matrix', 'matrices')}")
    return warnings


def _not_gguf(path: Path) -> CheckpointError | UnsupportedError:
    """The older form starts with a count of entries, and then a name with its length."""
    head = read_bytes_at(path, 0, min(520, file_size(path)))
    length = int.from_bytes(head[4:8], "little")
    name = head[8 : 8 + length]
    if 0 < length <= 512 and len(name) == length and name.endswith(b"weight"):
        return UnsupportedError(
            f"{path} is an importance matrix in the older binary form",
            f"convert it: llama-imatrix --in-file {path.name} -o {path.stem}.gguf",
        )
    return CheckpointError(f"{path} is not an importance matrix: it is no GGUF file", MADE_BY)


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
    blank = (count == 0)[:, 0] | ~means.any(axis=1)
    means[blank] = 1.0
    return means.astype(np.float32, copy=False), tuple(np.flatnonzero(blank).tolist())


def _check_size(importance: Importance, name: str, shape: tuple[int, ...]) -> None:
    values = importance.values[name]
    matrices, columns = prod(shape[:-2]), shape[-1]
    if values.shape != (matrices, columns):
        raise PlanError(
            f"{importance.path}: {name} has importances for {_size(*values.shape)}, "
            f"the model's has {_size(matrices, columns)}",
            "make one from this model with llama-imatrix",
        )


def _size(matrices: int, columns: int) -> str:
    return f"{columns} columns" if matrices == 1 else f"{matrices} x {columns} columns"


def _some(names: Sequence[str], one: str, many: str = "") -> str:
    shown = ", ".join(names[:3]) + (", ..." if len(names) > 3 else "")
    return f"{len(names)} {one if len(names) == 1 else many or one + 's'} ({shown})"


def _texts(metadata: Metadata, key: str) -> tuple[str, ...]:
    value = metadata[key].value if key in metadata else ()
    items = value if isinstance(value, list | tuple) else ()
    return tuple(item for item in items if isinstance(item, str))


def _number(metadata: Metadata, key: str) -> int:
    value = metadata[key].value if key in metadata else 0
    return value if isinstance(value, int) and value >= 0 else 0
