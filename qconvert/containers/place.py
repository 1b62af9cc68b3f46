"""Where an output is to be: the directories above it."""

import os
from pathlib import Path

from qconvert.errors import OutputError, UsageError


def check_place(path: Path) -> Path:
    """The directory that is there, of those above a file.

    Raises:
        OutputError: the nearest thing above it is no directory.
    """
    above = next(parent for parent in path.absolute().parents if os.path.lexists(parent))
    if not above.is_dir():
        raise OutputError(f"{above} is no directory", "choose another place with -o")
    return above


def make_place(path: Path) -> None:
    """Make the directories above a file.

    Raises:
        OutputError: they cannot be made.
    """
    check_place(path)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OutputError(
            f"cannot make {path.parent}: {error.strerror}", "choose another place with -o"
        ) from error


def check_output(path: Path) -> None:
    """Refuse what cannot be an output file.

    Raises:
        UsageError: standard output or a directory.
        OutputError: what stands above it is no directory.
    """
    if str(path) == "-":
        raise UsageError(
            "standard output cannot hold the result: it appears by an atomic rename, and can be "
            "taken up again when interrupted",
            "name a file with -o",
        )
    if path.is_dir():
        raise UsageError(f"{path} is a directory", "name a file in it with -o")
    check_place(path)
