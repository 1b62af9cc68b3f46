"""What clustered weights come to: how many distinct values tensors have, and what their file weighs
when it is compressed.

Compressed are the bytes as they lie in the file, a tensor at a time, by zlib's fastest level: what
a download, a package or a file system with compression gains at least. Slower ones gain more.
"""

import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from qconvert.checkpoint.files import read_bytes_at
from qconvert.containers.target import File, Slot
from qconvert.plan.safetensors.clustered import is_clustered, packed_bytes
from qconvert.plan.types import Plan
from qconvert.run.executor import Workers, at_work

LEVEL = 1
PIECE = 1 << 22
"""Bytes that are compressed by themselves."""

ITEMS = {"BF16": "<u2", "F16": "<u2", "F32": "<u4"}


@dataclass(frozen=True)
class Clustered:
    """What the weights of an output came to.

    Attributes:
        tensors: how many are clustered.
        values: distinct values of the tensor that has most, or of its group of rows that has.
        packed: bytes as codes and tables, with all that is not clustered as it is.
        compressed: bytes of the compressed files.
    """

    tensors: int
    values: int
    packed: int
    compressed: int


@dataclass(frozen=True)
class _Piece:
    """A tensor in a file, and how many of its rows share their values; 0 for one that is not
    clustered."""

    path: Path
    start: int
    slot: Slot
    rows: int


def clustered(plan: Plan, workers: Workers) -> Clustered | None:
    """What a written output came to; None where nothing of it is clustered.

    Raises:
        CheckpointError: it cannot be read.
    """
    rows = {t.slots[0].name: t.coding.row_step for t in plan.tensors if is_clustered(t)}
    if not rows:
        return None
    pieces = [piece for file in plan.target.weight_files for piece in _pieces(file, rows)]
    with at_work(workers) as executor:
        found = list(executor.map(_measured, pieces))
    values = max(count for count, _ in found)
    heads = sum(len(file.header()) for file in plan.target.weight_files)
    return Clustered(
        len(rows), values, packed_bytes(plan.tensors), heads + sum(size for _, size in found)
    )


def _pieces(file: File, rows: dict[str, int]) -> Iterator[_Piece]:
    start = len(file.header())
    for slot in file.slots:
        yield _Piece(file.path, start, slot, rows.get(slot.name, 0))
        start += slot.padded


def _measured(piece: _Piece) -> tuple[int, int]:
    """The most distinct values of rows that share them, and the compressed bytes."""
    raw = read_bytes_at(piece.path, piece.start, piece.slot.nbytes)
    parts = (raw[at : at + PIECE] for at in range(0, len(raw), PIECE))
    compressed = sum(len(zlib.compress(part, LEVEL)) for part in parts)
    if not piece.rows:
        return 0, compressed
    items = np.frombuffer(raw, ITEMS[piece.slot.dtype]).reshape(piece.slot.shape)
    return max(_distinct(rows) for rows in _shared(items, piece.rows)), compressed


def _shared(items: np.ndarray, rows: int) -> Sequence[np.ndarray]:
    return [items[first : first + rows] for first in range(0, len(items), rows)]


def _distinct(items: np.ndarray) -> int:
    if items.itemsize == 2:
        return int(np.count_nonzero(np.bincount(items.reshape(-1), minlength=1 << 16)))
    return len(np.unique(items))
