"""A sample that took long to make, kept in the folder of the calibration that it is for."""

import json
from collections.abc import Callable, Sequence
from hashlib import sha256
from pathlib import Path

import numpy as np

from qconvert import __version__
from qconvert.checkpoint import Checkpoint, fingerprint
from qconvert.containers.folder import open_folder
from qconvert.text.types import Sample

SAMPLE, PART = "sample.npz", "written"


def keep_sample(
    checkpoint: Checkpoint, path: Path, about: Sequence[object], draw: Callable[[Path], Sample]
) -> Sample:
    """A sample that takes long to make, or the one that an interrupted run of the same command has
    made and kept.

    Args:
        path: of the calibration file.
        about: all that the sample depends on beside the model; compared by its `repr`.
        draw: makes the sample; what it has of it meanwhile it may keep in files whose names begin
            with that of the path that it is given.
    """
    key = sha256(repr((fingerprint(checkpoint), __version__, *about)).encode()).hexdigest()
    with open_folder(path) as folder:
        file = folder / SAMPLE
        found = _read_sample(file, key)
        if found is None:
            found = draw(folder / f"{PART}-{key[:32]}")
            text = json.dumps({"key": key, "source": found.source, "seed": found.seed})
            temporary = folder / f"new-{SAMPLE}"
            np.savez(temporary, tokens=found.tokens, about=np.frombuffer(text.encode(), np.uint8))
            temporary.replace(file)
            for part in folder.glob(f"{PART}-*"):
                part.unlink()
        return found


def _read_sample(file: Path, key: str) -> Sample | None:
    try:
        with np.load(file, allow_pickle=False) as arrays:
            about = json.loads(arrays["about"].tobytes())
            if about["key"] == key:
                return Sample(arrays["tokens"], about["source"], about["seed"])
    except Exception:  # which errors what is damaged raises is left open by the libraries
        return None
    return None
