"""Hidden states on the disk: what goes into a block and what comes out of it.

Files take turns, two of them mostly: block N reads file N % 2 and writes the other, so that what it
reads stays until it is done. With a file for each block all of them stay. They are mapped into
memory a batch at a time. Where a GPU has room for them they stay there as well, and are written
while it computes.

    NAME-0, NAME-1 ...    [windows, window, hidden] of the model's type, row-major
"""

import os
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from qconvert.containers.room import TEMPORARY, check_free, take_room
from qconvert.errors import OutputError
from qconvert.forward.device import free_memory

BITS = {"bfloat16": np.int16, "float16": np.int16, "float32": np.int32}


SHARE = 0.1
"""Of a GPU's free memory, for hidden states that stay there."""


@dataclass(frozen=True)
class Near:
    """Hidden states on a GPU, and who writes them to the disk.

    Attributes:
        held: by file and first window.
        writing: what is not on the disk yet.
    """

    held: dict[tuple[int, int], Any] = field(default_factory=dict)
    writing: list[Future[None]] = field(default_factory=list)
    writer: ThreadPoolExecutor = field(default_factory=lambda: ThreadPoolExecutor(1))

    def hold(self, file: int, start: int, values: Any) -> Any:
        """Values in the place of what has windows in common with them; a copy, for nobody else."""
        stop = start + len(values)
        for other, first in list(self.held):
            if other == file and first < stop and start < first + len(self.held[other, first]):
                del self.held[other, first]
        own = values.detach().clone()
        self.held[file, start] = own
        return own

    def wait(self) -> None:
        """Have all of it on its way to the disk.

        Raises:
            OSError: it cannot be written.
        """
        for one in tuple(self.writing):
            one.result()


def find_near(device: str, nbytes: int) -> Near | None:
    """A place for so many bytes on a device; None where it has no room, or is the CPU."""
    if device != "cuda" or nbytes > SHARE * free_memory(device):
        return None
    return Near()


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
        near: where they stay besides.
    """

    folder: Path
    shape: tuple[int, int, int]
    dtype: str
    name: str = "states"
    files: int = 2
    beside: tuple["States", ...] = ()
    near: Near | None = None

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
        if self.near is not None:
            self.near.wait()
            self.near.held.clear()
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
        if self.near is not None:
            held = self.near.held.get((block % self.files, start))
            if held is not None and len(held) == stop - start:
                return held.clone()
            self.near.wait()
        return self._map(block, start, stop, "c")

    def write(self, block: int, start: int, values: Any) -> None:
        """What goes into a block for the windows from `start` on."""
        if self.near is None:
            self._map(block, start, start + len(values), "r+").copy_(values)
            return
        from torch.cuda import Event

        own = self.near.hold(block % self.files, start, values)
        there: Any = Event()  # type: ignore[no-untyped-call]
        there.record()
        writing = [one for one in self.near.writing if not one.done() or one.exception()]
        self.near.writing[:] = writing
        self.near.writing.append(self.near.writer.submit(self._write, block, start, own, there))

    def _write(self, block: int, start: int, values: Any, there: Any) -> None:
        """Write what a GPU will have when it is there, while it computes other things."""
        import torch

        beside: Any = torch.cuda.Stream()  # type: ignore[no-untyped-call]
        beside.wait_event(there)
        with torch.cuda.stream(beside):
            here = torch.empty(values.shape, dtype=values.dtype, pin_memory=True)
            here.copy_(values, non_blocking=True)
        beside.synchronize()
        self._map(block, start, start + len(values), "r+").copy_(here)

    def sync(self, block: int) -> None:
        """Have the disk take what goes into a block."""
        if self.near is not None:
            self.near.wait()
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
