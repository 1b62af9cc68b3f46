"""Hidden states on the disk: what goes into a block and what comes out of it.

Files take turns, two of them mostly: block N reads file N % 2 and writes the other, so that what it
reads stays until it is done. With a file for each block all of them stay. They are mapped into
memory a batch at a time.

    NAME-0, NAME-1 ...    [windows, window, hidden] of the model's type, row-major
"""

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from qconvert.containers.room import TEMPORARY, check_free, take_room
from qconvert.errors import OutputError

BITS = {"bfloat16": np.int16, "float16": np.int16, "float32": np.int32}


@dataclass(frozen=True)
class States:
    """The files.

    Attributes:
        folder: where they are.
        shape: windows, tokens of a window, and the model's width.
        dtype: torch's name of the type.
        name: of the files, up to the number.
        files: that take turns.
        beside: others that are made, kept and removed with them.
    """

    folder: Path
    shape: tuple[int, int, int]
    dtype: str
    name: str = "states"
    files: int = 2
    beside: tuple["States", ...] = ()

    @property
    def nbytes(self) -> int:
        """Of each file."""
        windows, window, hidden = self.shape
        return windows * window * hidden * self.itemsize

    @property
    def itemsize(self) -> int:
        """Bytes of a number."""
        return np.dtype(BITS[self.dtype]).itemsize

    def create(self, hint: str = TEMPORARY) -> None:
        """Make the files, with their full size; what they hold already stays.

        Args:
            hint: what to do where there is no room.

        Raises:
            OutputError: no room.
        """
        try:
            present = sum(path.stat().st_size for path in self._paths if path.exists())
            check_free(self.folder, self.files * self.nbytes - present, hint, "hidden states")
            for path in self._paths:
                take_room(path, self.nbytes)
            for others in self.beside:
                others.create(hint)
        except OSError as error:
            raise OutputError(f"cannot write {self.folder}: {error.strerror}", hint) from error

    def remove(self) -> None:
        """Give their room back."""
        for path in self._paths:
            path.unlink(missing_ok=True)
        for others in self.beside:
            others.remove()

    def exist(self) -> bool:
        """Whether all files are there, with their full size."""
        own = (path.is_file() and path.stat().st_size == self.nbytes for path in self._paths)
        return all(own) and all(others.exist() for others in self.beside)

    def read(self, block: int, start: int, stop: int) -> Any:
        """What goes into a block for some windows: [stop - start, window, hidden]. Writing into
        the tensor does not change the file."""
        return self._map(block, start, stop, "c")

    def write(self, block: int, start: int, values: Any) -> None:
        """What goes into a block for the windows from `start` on."""
        self._map(block, start, start + len(values), "r+").copy_(values)

    def sync(self, block: int) -> None:
        """Have the disk take what goes into a block."""
        with self._path(block).open("rb+") as file:
            os.fsync(file.fileno())
        for others in self.beside:
            others.sync(block)

    @property
    def _paths(self) -> tuple[Path, ...]:
        return tuple(map(self._path, range(self.files)))

    def _path(self, block: int) -> Path:
        return self.folder / f"{self.name}-{block % self.files}"

    def _map(self, block: int, start: int, stop: int, mode: Any) -> Any:
        import torch

        _, window, hidden = self.shape
        bits = np.dtype(BITS[self.dtype])
        offset = start * window * hidden * bits.itemsize
        shape = (stop - start, window, hidden)
        mapped = np.memmap(self._path(block), bits, mode, offset, shape)
        return torch.from_numpy(np.asarray(mapped)).view(getattr(torch, self.dtype))
