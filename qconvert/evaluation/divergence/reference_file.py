"""Where references are kept: one file for each model, text and way of computing.

    QCONVERT_CACHE, else XDG_CACHE_HOME/qconvert, else ~/.cache/qconvert
        references/KEY.zip

A file is a ZIP archive without compression: `about.json`, and for each window `N/NAME.npy`. ZIP has
a CRC-32 for each, and all are checked before a file is used. It appears by a rename, when it is
complete. All files together stay below 8 GB: those not used for longest go first.
"""

import json
import os
import tempfile
import time
import zipfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np

from qconvert.containers.whole import renamed
from qconvert.errors import OutputError, first_line

LIMIT = 8_000_000_000
"""Bytes of all references together."""

ABOUT = "about.json"
STALE = 86400.0
"""Seconds after which what an interrupted run has left is nobody's work any more."""


def cache_folder() -> Path:
    """Where references are kept; it need not exist."""
    own = os.environ.get("QCONVERT_CACHE")
    if own:
        return Path(own).expanduser() / "references"
    home = Path(os.environ.get("XDG_CACHE_HOME") or Path("~/.cache").expanduser())
    return home / "qconvert" / "references"


@contextmanager
def writable_folder() -> Iterator[tuple[Path, str]]:
    """The cache's folder, or one for this run alone and why."""
    folder = cache_folder()
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        with tempfile.TemporaryDirectory(prefix="qconvert-") as other:
            yield Path(other), f"{folder} cannot be written: {error.strerror}"
        return
    yield folder, ""


@dataclass(frozen=True)
class Archive:
    """A complete file, opened.

    Attributes:
        path: the file.
        about: what its first entry says.
    """

    path: Path
    about: Mapping[str, Any]
    _zip: zipfile.ZipFile

    def read(self, window: int, name: str) -> np.ndarray:
        """An array of a window.

        Raises:
            OutputError: the file has been damaged since it was opened.
        """
        try:
            return _parse(self._zip.read(f"{window}/{name}.npy"))
        except Exception as error:
            raise OutputError(
                f"{self.path} cannot be read: {error}", "delete it: it is made anew"
            ) from error

    def close(self) -> None:
        self._zip.close()


def open_archive(path: Path, key: str) -> Archive | None:
    """A file after all its checksums; None where there is none.

    Raises:
        ValueError: it is damaged, or another's; the message says how.
    """
    try:
        if path.exists() and not path.is_file():
            raise ValueError("it is no file")
        found = zipfile.ZipFile(path)
    except FileNotFoundError:
        return None
    except Exception as error:
        raise ValueError(first_line(error)) from error
    try:
        for entry in found.infolist():
            if entry.compress_type != zipfile.ZIP_STORED:
                raise ValueError(f"its entry {entry.filename} is compressed")
            if entry.filename.endswith(".npy"):
                _parse(found.read(entry))
        about = json.loads(found.read(ABOUT))
        if about["key"] != key:
            raise ValueError("it belongs to something else")
        int(about["vocabulary"])
        with suppress(OSError):
            os.utime(path)
        return Archive(path, about, found)
    except Exception as error:  # which errors broken archives raise is left open by the library
        found.close()
        raise ValueError(first_line(error)) from error


def write_archive(
    path: Path, about: Mapping[str, Any], windows: Iterator[Mapping[str, np.ndarray]]
) -> None:
    """Write a file; it appears when the last window is in it.

    Args:
        about: must have the "key".
        windows: the arrays of each window in order, by name; taken one at a time.

    Raises:
        OutputError: the disk is full or fails.
    """
    hint = "make room, or have QCONVERT_CACHE name a folder on another disk"
    temporary = path.with_name(f".new-{os.getpid()}.zip")
    with renamed(temporary, path, hint), zipfile.ZipFile(temporary, "w") as out:
        _add(out, ABOUT, json.dumps(about).encode())
        for number, arrays in enumerate(windows):
            for key, array in arrays.items():
                _add(out, f"{number}/{key}.npy", _format(array))
    _make_room(path)


def _add(out: zipfile.ZipFile, name: str, data: bytes) -> None:
    with out.open(zipfile.ZipInfo(name), "w", force_zip64=True) as entry:
        entry.write(data)


def _format(array: np.ndarray) -> bytes:
    out = BytesIO()
    np.save(out, array, allow_pickle=False)
    return out.getvalue()


def _parse(data: bytes) -> np.ndarray:
    """An array, whose header may claim no more than there is."""
    file = BytesIO(data)
    if np.lib.format.read_magic(file) != (1, 0):
        raise ValueError("an array of an unknown version")
    shape, _, dtype = np.lib.format.read_array_header_1_0(file)
    if dtype.hasobject:
        raise ValueError("an array of objects")
    found: np.ndarray = np.frombuffer(data, dtype, offset=file.tell()).reshape(shape)
    return found


def _make_room(new: Path) -> None:
    """Delete what has not been used for longest until all is below the limit, but never the new
    file; and what interrupted runs have left."""
    files = []
    for path in new.parent.glob("*.zip"):
        with suppress(OSError):
            stat = path.stat()
            files.append((stat.st_mtime, stat.st_size, path))
    total = sum(size for _, size, path in files if not path.name.startswith("."))
    for used, size, path in sorted(files):
        left = path.name.startswith(".")
        full = total > LIMIT and path != new and not left
        if full or (left and time.time() - used > STALE):
            with suppress(OSError):
                path.unlink()
                total -= 0 if left else size
