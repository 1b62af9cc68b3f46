"""A work folder of tensors already made.

    .NAME.partial/
        lock, identity         see `containers.folder`
        DIGEST.safetensors     what one weight has become: arrays by name; the header names it

A file has its name when its bytes are on the disk, so a run that was interrupted finds whole
entries or none. What is stored can be read by rows like any checkpoint's: `tensors`.
"""

import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from hashlib import sha256
from pathlib import Path

import numpy as np

from qconvert.checkpoint import TensorInfo
from qconvert.checkpoint.safetensors import read_metadata, read_safetensors
from qconvert.containers.folder import begin_anew, is_of, open_folder
from qconvert.containers.room import ELSEWHERE
from qconvert.containers.safetensors import DTYPES, write_arrays
from qconvert.errors import CheckpointError

NAME = "qconvert.made"
"""The key of the weight's name in a header."""

NUMPY = {stored: name for name, stored in DTYPES.items()}


@dataclass(frozen=True)
class Store:
    """Tensors already made, of which `open_store` gives one.

    Attributes:
        folder: where they are. Others may keep files there too, of names of their own.
        identity: of what they are made of.
    """

    folder: Path
    identity: str
    _made: dict[str, dict[str, TensorInfo]] = field(default_factory=dict, repr=False)

    @property
    def names(self) -> tuple[str, ...]:
        """What it holds."""
        return tuple(self._made)

    def __contains__(self, name: str) -> bool:
        return name in self._made

    def put(self, name: str, arrays: Mapping[str, np.ndarray]) -> None:
        """Keep what a weight has become; it is on the disk when this returns.

        Args:
            name: of the weight.
            arrays: by the names that they have in an output or a checkpoint; C order.

        Raises:
            OutputError: it cannot be written.
        """
        path = self._path(name)
        write_arrays(path, arrays, {NAME: name}, ELSEWHERE)
        self._made[name] = read_safetensors(path)

    def get(self, name: str) -> dict[str, np.ndarray]:
        """The arrays of a weight, mapped into memory and not to be changed.

        Raises:
            KeyError: it is not there.
        """
        return {key: _mapped(info) for key, info in self._made[name].items()}

    @property
    def tensors(self) -> dict[str, TensorInfo]:
        """Every array by its own name, to be read like those of a checkpoint."""
        return {key: info for arrays in self._made.values() for key, info in arrays.items()}

    def clear(self) -> None:
        """Forget everything, and what others keep in the folder."""
        self._made.clear()
        begin_anew(self.folder, self.identity)

    def delete(self) -> None:
        """Remove the folder: what it held is where it was wanted."""
        self._made.clear()
        shutil.rmtree(self.folder, ignore_errors=True)

    def _path(self, name: str) -> Path:
        return self.folder / f"{sha256(name.encode()).hexdigest()[:32]}.safetensors"

    def _take_up(self) -> None:
        for path in sorted(self.folder.glob("*.safetensors")):
            try:
                name = read_metadata(path).get(NAME)
                if name is not None and path == self._path(name):
                    self._made[name] = read_safetensors(path)
            except CheckpointError:
                path.unlink()


@contextmanager
def open_store(path: Path, identity: str) -> Iterator[Store]:
    """The tensors made for an output, locked against other processes; what was made of something
    else is removed.

    Args:
        path: of the output; the store is a folder beside it.
        identity: a digest of all that the tensors depend on: input, recipe, version.

    Raises:
        OutputError: it cannot be made, another run works in it, or its disk is full.
    """
    with open_folder(path) as folder:
        store = Store(folder, identity)
        if is_of(folder, identity):
            store._take_up()
        else:
            begin_anew(folder, identity)
        yield store


def _mapped(info: TensorInfo) -> np.ndarray:
    dtype = np.dtype(NUMPY[info.dtype])
    if not info.nbytes:
        return np.empty(info.shape, dtype)
    raw = np.memmap(info.path, np.uint8, "r", info.offset, (info.nbytes,))
    mapped: np.ndarray = raw.view(np.ndarray).view(dtype).reshape(info.shape)
    return mapped
