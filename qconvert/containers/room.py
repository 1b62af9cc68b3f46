"""Room on a disk: asked for before long work, and taken before a file is mapped into memory."""

import errno
import os
import shutil
from pathlib import Path

from qconvert.containers.sizes import human_bytes
from qconvert.errors import OutputError

FULL = (errno.ENOSPC, errno.EDQUOT)
"""What a disk without room answers: no fault of the program, wherever it comes from."""

TEMPORARY = "make room, or have TMPDIR name a folder on another disk"
"""What to do where temporary files find no room."""

ELSEWHERE = "make room, or choose another place with -o"
"""What to do where an output finds none."""

WAITING = 1 << 32
"""Bytes of activations that wait in memory, of all models that run side by side; more wait on the
disk."""

PIECE = 1 << 22
"""Bytes that are written at once where blocks cannot be asked for."""


def waiting_bytes(tokens: int, width: int, widest: int, itemsize: int) -> int:
    """Bytes of what a block's tokens have in front of its widest product: its input, and the
    residual stream twice.

    Args:
        width: numbers of a token in the stream.
        widest: in the input.
        itemsize: bytes of one.
    """
    return tokens * (2 * width + widest) * itemsize


def check_free(folder: Path, needed: int, hint: str, purpose: str = "") -> None:
    """Refuse what the disk has no room for.

    Args:
        needed: bytes.
        purpose: what for, as the message's "are needed in FOLDER for ..."; empty leaves it out.

    Raises:
        OutputError: fewer bytes are free.
    """
    free = shutil.disk_usage(folder).free
    if needed > free:
        what = f"{folder} for {purpose}" if purpose else folder
        raise OutputError(
            f"{human_bytes(needed)} are needed in {what}, and {human_bytes(free)} are free", hint
        )


def take_room(path: Path, nbytes: int) -> None:
    """Give a file its full size and the disk's blocks; what it holds already stays.

    A file without blocks has room only on paper: where the disk is full, writing through a map
    of it ends the process (SIGBUS), with no word.

    Raises:
        OSError: no room, or the file cannot be written.
    """
    with path.open("ab") as file:
        if hasattr(os, "posix_fallocate"):
            try:
                os.posix_fallocate(file.fileno(), 0, max(1, nbytes))
                file.truncate(nbytes)
                return
            except OSError as error:
                if error.errno not in (errno.EOPNOTSUPP, errno.EINVAL):
                    raise
        missing = nbytes - file.tell()
        for start in range(0, missing, PIECE):
            file.write(bytes(min(PIECE, missing - start)))
        file.truncate(nbytes)
