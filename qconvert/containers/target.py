"""What is written, whatever its container: files of tensors, and what stands beside them."""

from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol


@dataclass(frozen=True)
class Slot:
    """A tensor's place in a file.

    Attributes:
        shape: row-major.
        dtype: what the container calls the type of its elements or blocks.
        nbytes: without the padding behind it.
        align: the file goes on at a multiple of so many bytes.
    """

    name: str
    shape: tuple[int, ...]
    dtype: str
    nbytes: int
    align: int = 1

    @property
    def padded(self) -> int:
        """Bytes with the padding behind it."""
        return -(-self.nbytes // self.align) * self.align


class File(Protocol):
    """A file to write, of any container: a header and then tensors."""

    @property
    def path(self) -> Path: ...

    @property
    def slots(self) -> Sequence[Slot]: ...

    @property
    def nbytes(self) -> int:
        """The exact size."""

    def header(self) -> bytes: ...


class Target(Protocol):
    """An output: a place, the files of weights in it and the small files beside them."""

    @property
    def path(self) -> Path:
        """What it is called: the (first) file, or the directory."""

    @property
    def weight_files(self) -> Sequence[File]:
        """The files of weights, where they are when all is done."""

    @property
    def small_files(self) -> Mapping[Path, bytes]:
        """All other files, made before a weight is read."""

    @property
    def occupied(self) -> bool:
        """Whether something is there already."""

    def check(self) -> None:
        """Refuse at once what `making` would refuse.

        Raises:
            OutputError: something is there already, or it can have no place.
        """

    def making(self) -> AbstractContextManager[Sequence[File]]:
        """The files of weights to write, where they are until all is done.

        On the way out the small files are written and everything gets its name, unless there was
        an error.

        Raises:
            OutputError: something is there already, or it cannot be written.
        """

    def elsewhere(self, path: Path, made_by: Mapping[str, str]) -> "Target":
        """The same at another path, with more words in its header."""

    def clear(self) -> None:
        """Remove what this program made there before, where it would be in the way.

        Raises:
            OutputError: it is in the way, and somebody else has made it.
        """


def paths_of(target: Target) -> tuple[Path, ...]:
    """Every file."""
    return (*(file.path for file in target.weight_files), *target.small_files)
