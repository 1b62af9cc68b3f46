"""Tensors, of whatever: in a safetensors file without a config.json beside it."""

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from qconvert.checkpoint import TensorInfo
from qconvert.checkpoint.foreign import foreign_tensors
from qconvert.checkpoint.safetensors import read_metadata, read_safetensors


@dataclass(frozen=True)
class Tensors:
    """What the file tells.

    Attributes:
        known: what their names say it is, and what to do with it; None where they do not.
    """

    source: str
    nbytes: int
    elements: int
    dtypes: Mapping[str, tuple[int, int]]
    tensors: tuple[TensorInfo, ...]
    metadata: Mapping[str, str]
    known: tuple[str, str] | None


def dtypes_of(tensors: Iterable[TensorInfo]) -> dict[str, tuple[int, int]]:
    """Tensors and bytes by dtype, the most bytes first."""
    counts: Counter[str] = Counter()
    sizes: Counter[str] = Counter()
    for tensor in tensors:
        counts[tensor.dtype] += 1
        sizes[tensor.dtype] += tensor.stored_bytes
    return {dtype: (counts[dtype], sizes[dtype]) for dtype, _ in sizes.most_common()}


def look_at_tensors(source: str, path: Path) -> Tensors:
    """Read its header.

    Raises:
        CheckpointError: it cannot be read.
    """
    found = read_safetensors(path)
    tensors = tuple(found.values())
    return Tensors(
        source,
        sum(tensor.nbytes for tensor in tensors),
        sum(tensor.elements for tensor in tensors),
        dtypes_of(tensors),
        tensors,
        read_metadata(path),
        foreign_tensors(found),
    )
