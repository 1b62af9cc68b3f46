"""Small files that appear complete or not at all, and what larger ones need for it too."""

import fcntl
import os
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path

from qconvert.containers.place import make_place
from qconvert.errors import OutputError


def sync(path: Path) -> None:
    """Have the disk take a file's bytes, or the names in a directory."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def lock(descriptor: int, path: Path) -> None:
    """Keep other processes from what is open, until it is closed.

    Args:
        descriptor: of a file or directory; closed where another has it.
        path: what is made with it, for the message.

    Raises:
        OutputError: another process has it.
    """
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        os.close(descriptor)
        raise OutputError(
            f"another run is writing {path}", "wait for it or choose another output"
        ) from error


@contextmanager
def renamed(temporary: Path, path: Path, hint: str = "") -> Iterator[Path]:
    """What is written at the first path is durable and has the other one when all is well.

    Raises:
        OutputError: what was done with it, or the renaming, failed.
    """
    try:
        try:
            yield temporary
            sync(temporary)
            temporary.replace(path)
            sync(path.parent)
        finally:
            temporary.unlink(missing_ok=True)
    except OSError as error:
        raise OutputError(f"cannot write {path}: {error.strerror or error}", hint) from error


def replacing(path: Path, hint: str = "") -> AbstractContextManager[Path]:
    """`renamed`, from a name beside it that no other process uses."""
    return renamed(path.with_name(f".{path.name}.{os.getpid()}"), path, hint)


def write_whole(path: Path, data: bytes) -> None:
    """Write a file.

    Raises:
        OutputError: it cannot be written.
    """
    make_place(path)
    with replacing(path) as temporary:
        temporary.write_bytes(data)
