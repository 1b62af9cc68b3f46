"""The folder of work that is not complete, beside its output: `.NAME.partial`.

    lock        held by the process that works there
    identity    of what all the rest is made of; written last where the folder is begun anew

A run that finds its own identity takes up what is there; anything else is removed.
"""

import os
import shutil
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from pathlib import Path

from qconvert.containers.place import make_place
from qconvert.containers.room import ELSEWHERE, FULL
from qconvert.containers.whole import lock, replacing
from qconvert.errors import OutputError

LOCK, IDENTITY = "lock", "identity"


def work_folder(path: Path) -> Path:
    return path.with_name(f".{path.name}.partial")


@contextmanager
def open_folder(path: Path) -> Iterator[Path]:
    """The folder of the work on an output, locked; not left behind where nothing came of it.

    Raises:
        OutputError: it cannot be made, another run works in it, or its disk is full.
    """
    make_place(path)
    folder = work_folder(path)
    try:
        folder.mkdir(exist_ok=True)
        descriptor = os.open(folder / LOCK, os.O_RDWR | os.O_CREAT, 0o666)
    except OSError as error:
        raise OutputError(
            f"cannot write {folder}: {error.strerror}", "choose another place with -o"
        ) from error
    lock(descriptor, path)
    try:
        yield folder
    except OSError as error:
        if error.errno not in FULL:
            raise
        raise OutputError(f"cannot write {folder}: {error.strerror}", ELSEWHERE) from error
    finally:
        if folder.is_dir() and {entry.name for entry in folder.iterdir()} <= {LOCK, IDENTITY}:
            shutil.rmtree(folder, ignore_errors=True)
        os.close(descriptor)


def is_of(folder: Path, identity: str) -> bool:
    """Whether what is in a folder was made of the same."""
    note = folder / IDENTITY
    try:
        return note.is_file() and note.read_text() == identity
    except ValueError:
        return False


def begin_anew(folder: Path, identity: str, keep: Collection[str] = ()) -> None:
    """Remove what is in a folder, and say what it holds from now on.

    Args:
        keep: names of files that stay; they have to say themselves what they are made of.
    """
    (folder / IDENTITY).unlink(missing_ok=True)  # first: without it nothing here counts
    for leftover in folder.iterdir():
        if leftover.name not in (LOCK, *keep):
            leftover.unlink()
    with replacing(folder / IDENTITY, ELSEWHERE) as temporary:
        temporary.write_text(identity)
