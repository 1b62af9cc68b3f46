"""Directories that appear complete or not at all.

Everything is written into `.NAME.partial` beside the output. When all files are there and synced,
it is renamed. A run that was interrupted finds what it has written; files that the next run does
not expect are removed.
"""

import fcntl
import os
import shutil
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType

from qconvert.errors import OutputError


def check_directory(path: Path) -> None:
    """Refuse an output that is there already, or that can have no place.

    Raises:
        OutputError: a file, a directory with something in it, or no parent directory.
    """
    if not path.parent.is_dir():
        raise OutputError(
            f"no directory {path.parent}", "create it first, or choose another with -o"
        )
    if path.is_symlink() or (path.exists() and not path.is_dir()):
        raise OutputError(f"{path} exists and is no directory", "choose another with -o")
    if path.is_dir() and any(path.iterdir()):
        raise OutputError(
            f"{path} exists and is not empty",
            "remove it, or choose another directory with -o: files of two models must not mix",
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
        try:
            self.folder.mkdir(exist_ok=True)
            self._lock = os.open(self.folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
        except OSError as error:
            raise _failed(self.path, error) from error
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            os.close(self._lock)
            raise OutputError(
                f"another run is writing {self.path}", "wait for it or choose another output"
            ) from error
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
            with place.open("wb") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
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
            parent = os.open(self.path.parent, os.O_RDONLY)
            try:
                os.fsync(parent)
            finally:
                os.close(parent)
        except OSError as error:
            raise _failed(self.path, error) from error

    def discard(self) -> None:
        """Leave nothing behind."""
        shutil.rmtree(self.folder, ignore_errors=True)


def _failed(path: Path, error: OSError) -> OutputError:
    return OutputError(f"cannot write {path}: {error.strerror}", "choose another place with -o")
