"""Numba inner loops: arrays in, arrays out, no I/O.

Compiled kernels are kept beside these files where that is possible, else in the user's cache,
else in a folder that goes with the machine's temporary files: Numba stops where it finds none.
"""

import os
import tempfile
from contextlib import suppress
from pathlib import Path

TEMPORARY = "qconvert-kernels-"


def _cache_folder() -> str | None:
    """Where Numba is to keep its files; None leaves the choice to it."""
    if os.access(Path(__file__).parent, os.W_OK):
        return None
    home = Path(os.environ.get("XDG_CACHE_HOME") or Path("~/.cache").expanduser())
    folder = home / "qconvert" / "kernels"
    with suppress(OSError):
        folder.mkdir(parents=True, exist_ok=True)
        if os.access(folder, os.W_OK):
            return str(folder)
    return tempfile.mkdtemp(prefix=TEMPORARY)


def are_kept() -> bool:
    """Whether a later run finds what this one compiles."""
    return not Path(os.environ.get("NUMBA_CACHE_DIR", "")).name.startswith(TEMPORARY)


if "NUMBA_CACHE_DIR" not in os.environ and (_folder := _cache_folder()):
    os.environ["NUMBA_CACHE_DIR"] = _folder
