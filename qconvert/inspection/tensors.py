"""Tensors in a safetensors file without a config.json beside it."""

from collections.abc import Mapping
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
    tensors: tuple[TensorInfo, ...]
    metadata: Mapping[str, str]
    known: tuple[str, str] | None

    @property
    def nbytes(self) -> int:
        return sum(tensor.nbytes for tensor in self.tensors)

    @property
    def elements(self) -> int:
        return sum(tensor.elements for tensor in self.tensors)

    @property
    def dtypes(self) -> dict[str, tuple[int, int]]:
        """By dtype, tensors and bytes."""
        sizes: dict[str, tuple[int, int]] = {}
        for tensor in self.tensors:
            count, nbytes = sizes.get(tensor.dtype, (0, 0))
            sizes[tensor.dtype] = (count + 1, nbytes + tensor.nbytes)
        return sizes


def look_at_tensors(source: str, path: Path) -> Tensors:
    """Read its header.

    Raises:
        CheckpointError: it cannot be read.
    """
    found = read_safetensors(path)
    return Tensors(source, tuple(found.values()), read_metadata(path), foreign_tensors(found))
