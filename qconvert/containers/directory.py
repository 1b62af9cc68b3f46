"""Directories that appear complete or not at all.

Everything is written into `.NAME.partial` beside the output. When all files are there and synced,
it is renamed. A run that was interrupted finds what it has written; files that the next run does
not expect are removed.
"""

import os
import shutil
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from types import TracebackType

from qconvert.checkpoint.files import file_size, read_bytes_at
from qconvert.containers.place import check_place, make_place
from qconvert.containers.safetensors import INDEX_NAME, Shard, index_json, lay_out
from qconvert.containers.target import Slot
from qconvert.containers.whole import lock, sync
from qconvert.errors import CheckpointError, OutputError

MAX_SHARD_SIZE = 5_000_000_000

MADE_HERE = b'"qconvert.source.fingerprint"'
"""In the header of every file of a directory that this program wrote."""


@dataclass(frozen=True)
class Directory:
    """A directory with safetensors: a `Target`.

    Attributes:
        slots: every tensor of the files, in the order in which shards are filled.
        metadata: for the header of each safetensors file; it names all that the weights depend
            on, so that an interrupted run is only taken up by the same one.
        files: the small files by name, without the index of the shards.
        max_shard_size: bytes that a file of weights may have.
    """

    path: Path
    slots: Sequence[Slot]
    metadata: Mapping[str, str]
    files: Mapping[str, bytes]
    max_shard_size: int = MAX_SHARD_SIZE

    @property
    def weight_files(self) -> tuple[Shard, ...]:
        return self._shards(self.path)

    @property
    def small_files(self) -> dict[Path, bytes]:
        return {self.path / name: data for name, data in self._small(self.weight_files).items()}

    @contextmanager
    def making(self) -> Iterator[tuple[Shard, ...]]:
        """The files of weights, in a folder that becomes the directory when all is written."""
        with PartialDirectory(self.path) as partial:
            shards = self._shards(partial.folder)
            partial.keep_only({shard.path.name for shard in shards})
            yield shards
            for name, data in self._small(shards).items():
                partial.write(name, data)
            partial.commit()

    @property
    def occupied(self) -> bool:
        return self.path.is_file() or (self.path.is_dir() and any(self.path.iterdir()))

    def check(self) -> None:
        check_directory(self.path)

    def elsewhere(self, path: Path, made_by: Mapping[str, str]) -> "Directory":
        return replace(self, path=path, metadata={**self.metadata, **made_by})

    def clear(self) -> None:
        """Remove a directory that this program has made of something else; never another.

        Raises:
            OutputError: another is in the way.
        """
        check_own(self.path)
        if self.path.exists():
            shutil.rmtree(self.path)

    def _shards(self, folder: Path) -> tuple[Shard, ...]:
        return lay_out(folder, self.slots, self.metadata, self.max_shard_size)

    def _small(self, shards: Sequence[Shard]) -> dict[str, bytes]:
        index = {INDEX_NAME: index_json(shards)} if len(shards) > 1 else {}
        return {**self.files, **index}


def check_own(path: Path) -> None:
    """Refuse a place where something is that this program has not made of something else.

    Raises:
        OutputError: another is in the way.
    """
    if not path.exists() and not path.is_symlink():
        return
    is_folder = path.is_dir() and not path.is_symlink()
    if is_folder and not any(path.iterdir()):
        return
    weights = sorted(path.glob("*.safetensors")) if is_folder else []
    if not weights or not all(map(_made_here, weights)):
        raise OutputError(
            f"{path} is in the way, and was not made by this program",
            "choose another folder with -o",
        )


def _made_here(path: Path) -> bool:
    try:
        length = int.from_bytes(read_bytes_at(path, 0, 8), "little")
        head = read_bytes_at(path, 8, min(length, 1 << 20, file_size(path) - 8))
    except (OSError, CheckpointError):
        return False
    return MADE_HERE in bytes(head)


def check_directory(path: Path) -> None:
    """Refuse an output that is there already, or that can have no place.

    Raises:
        OutputError: a file, a directory with something in it, or no directory above it.
    """
    check_place(path)
    if path.is_symlink() or (path.exists() and not path.is_dir()):
        raise OutputError(f"{path} exists and is no directory", "choose another with -o")
    if path.is_dir() and any(path.iterdir()):
        raise OutputError(
            f"{path} exists and is not empty",
            "--force replaces what was made by this program; or choose another with -o",
        )


@dataclass
class PartialDirectory:
    """A directory in the making: enter, write into `folder`, commit.

    Attributes:
        path: where the finished directory will be.
    """

    path: Path
    _lock: int = -1

    @property
    def folder(self) -> Path:
        """Where files are written meanwhile."""
        return self.path.with_name(f".{self.path.name}.partial")

    def __enter__(self) -> "PartialDirectory":
        """Create it or take it up.

        Raises:
            OutputError: the output exists, cannot be written, or another run writes it.
        """
        check_directory(self.path)
        make_place(self.path)
        try:
            self.folder.mkdir(exist_ok=True)
            self._lock = os.open(self.folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
        except OSError as error:
            raise _failed(self.path, error) from error
        lock(self._lock, self.path)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        os.close(self._lock)
        if not self._is_used():
            self.discard()

    def _is_used(self) -> bool:
        return self.folder.is_dir() and any(self.folder.iterdir())

    def write(self, name: str, data: bytes) -> None:
        """Write a small file durably; `name` may have one directory before it.

        Raises:
            OutputError: the disk is full or fails.
        """
        place = self.folder / name
        try:
            place.parent.mkdir(exist_ok=True)
            place.write_bytes(data)
            sync(place)
        except OSError as error:
            raise _failed(self.path, error) from error

    def keep_only(self, names: Collection[str]) -> None:
        """Remove what an earlier run with other options has left.

        Args:
            names: files and directories to keep, and with them their partial files.
        """
        for entry in self.folder.iterdir():
            base = entry.name.removesuffix(".journal").removesuffix(".partial")
            if entry.name in names or base.removeprefix(".") in names:
                continue
            if entry.is_dir() and not entry.is_symlink():
                shutil.rmtree(entry)
            else:
                entry.unlink()

    def commit(self) -> None:
        """Make the directory durable and give it its name.

        Raises:
            OutputError: it cannot be renamed.
        """
        try:
            os.fsync(self._lock)
            self.folder.rename(self.path)
            sync(self.path.parent)
        except OSError as error:
            raise _failed(self.path, error) from error

    def discard(self) -> None:
        """Leave nothing behind."""
        shutil.rmtree(self.folder, ignore_errors=True)


def _failed(path: Path, error: OSError) -> OutputError:
    return OutputError(f"cannot write {path}: {error.strerror}", "choose another place with -o")
