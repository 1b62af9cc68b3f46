"""The folder of a calibration that is not complete, beside its output.

    lock          held by the run that works there
    sample.npz    a sample that took long to make

and what `qconvert.calibration.capture` keeps there.
"""

import fcntl
import json
import os
import shutil
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from hashlib import sha256
from pathlib import Path
from zipfile import BadZipFile

import numpy as np

from qconvert import __version__
from qconvert.checkpoint import Checkpoint, fingerprint
from qconvert.containers.room import ELSEWHERE, FULL
from qconvert.errors import OutputError
from qconvert.text.types import Sample

LOCK, SAMPLE = "lock", "sample.npz"


def work_folder(path: Path) -> Path:
    return path.with_name(f".{path.name}.partial")


@contextmanager
def open_folder(path: Path) -> Iterator[Path]:
    """The folder of the work, locked; not left behind where nothing came of it.

    Raises:
        OutputError: it cannot be made, another run works in it, or its disk is full.
    """
    check_place(path)
    folder = work_folder(path)
    try:
        folder.mkdir(exist_ok=True)
        descriptor = os.open(folder / LOCK, os.O_RDWR | os.O_CREAT, 0o666)
    except OSError as error:
        raise OutputError(
            f"cannot write {folder}: {error.strerror}", "choose another place with -o"
        ) from error
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        os.close(descriptor)
        raise OutputError(
            f"another run is writing {path}", "wait for it or choose another output"
        ) from error
    try:
        yield folder
    except OSError as error:
        if error.errno not in FULL:
            raise
        raise OutputError(f"cannot write {folder}: {error.strerror}", ELSEWHERE) from error
    finally:
        if folder.is_dir() and [entry.name for entry in folder.iterdir()] == [LOCK]:
            shutil.rmtree(folder, ignore_errors=True)
        os.close(descriptor)


def check_place(path: Path) -> None:
    """Refuse a file that can have no place.

    Raises:
        OutputError: there is no such directory.
    """
    if not path.parent.is_dir():
        raise OutputError(f"no directory {path.parent}", "create it first, or choose another")


def keep_sample(
    checkpoint: Checkpoint, path: Path, about: Sequence[object], draw: Callable[[], Sample]
) -> Sample:
    """A sample that takes long to make, or the one that an interrupted run of the same command has
    made and kept.

    Args:
        path: of the calibration file.
        about: all that the sample depends on beside the model; compared by its `repr`.
        draw: makes the sample.
    """
    key = sha256(repr((fingerprint(checkpoint), __version__, *about)).encode()).hexdigest()
    with open_folder(path) as folder:
        file = folder / SAMPLE
        found = _read_sample(file, key)
        if found is None:
            found = draw()
            text = json.dumps({"key": key, "source": found.source, "seed": found.seed})
            temporary = folder / f"new-{SAMPLE}"
            np.savez(temporary, tokens=found.tokens, about=np.frombuffer(text.encode(), np.uint8))
            temporary.replace(file)
        return found


def _read_sample(file: Path, key: str) -> Sample | None:
    try:
        with np.load(file, allow_pickle=False) as arrays:
            about = json.loads(arrays["about"].tobytes())
            if about["key"] == key:
                return Sample(arrays["tokens"], about["source"], about["seed"])
    except (OSError, ValueError, KeyError, TypeError, EOFError, BadZipFile):
        pass
    return None
