"""Small files that appear complete or not at all."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from qconvert.errors import OutputError


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """A path beside another, which it becomes when all is well.

    Raises:
        OutputError: what was done with it, or the replacing, failed.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        try:
            yield temporary
            temporary.replace(path)
        finally:
            temporary.unlink(missing_ok=True)
    except OSError as error:
        raise OutputError(f"cannot write {path}: {error.strerror or error}") from error


def write_whole(path: Path, data: bytes) -> None:
    """Write a file.

    Raises:
        OutputError: it cannot be written.
    """
    with replacing(path) as temporary, temporary.open("wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
