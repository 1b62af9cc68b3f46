"""A calibration as llama.cpp's importance matrix, in its GGUF form or the older binary one.

The layouts are told in `qconvert.calibration.imatrix` and `qconvert.calibration.imatrix_dat`. Both
give sums of squares; an expert that no token chose has a count of 0 in the first, and ones in the
second.
"""

from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from struct import pack

import numpy as np

from qconvert.calibration.imatrix import COUNTS, SUMS
from qconvert.calibration.types import Calibration, InputStatistics
from qconvert.checkpoint.metadata import Metadata, text, texts, u32
from qconvert.containers.gguf import ALIGNMENT, header_bytes, padded
from qconvert.containers.partial import PartialFile
from qconvert.containers.target import Slot
from qconvert.errors import PlanError, UsageError


@dataclass(frozen=True)
class Matrix:
    """What was written, or would be.

    Attributes:
        weights: that it is of.
        notices: what the text did not reach.
    """

    path: Path
    nbytes: int
    weights: int
    windows: int
    window: int
    notices: tuple[str, ...]


def imatrix_bytes(calibration: Calibration, suffix: str) -> bytes:
    """An importance matrix.

    Args:
        suffix: of the file: ".gguf", or ".dat" for the older form.

    Raises:
        UsageError: another suffix.
        PlanError: the calibration saw nothing.
    """
    forms = {".gguf": gguf_bytes, ".dat": dat_bytes}
    if suffix not in forms:
        raise UsageError(
            f"{suffix or 'a file without an ending'} is no form of an importance matrix",
            "name a file that ends in .gguf, or in .dat for llama.cpp's older form",
        )
    if not _in_order(calibration):
        raise PlanError(f"{calibration.path} saw no token, so nothing is important")
    return forms[suffix](calibration)


def write_imatrix(data: bytes, path: Path) -> None:
    """Write a file that appears complete or not at all.

    Raises:
        OutputError: it cannot be written.
    """
    with PartialFile(path, f"imatrix {sha256(data).hexdigest()}") as out:
        out.append(data[out.position :])
        out.commit()


def gguf_bytes(calibration: Calibration) -> bytes:
    """The GGUF form."""
    slots, arrays = [], []
    for name, statistics in _in_order(calibration):
        sums = statistics.sum_squares.astype("<f4")
        counts = statistics.count.astype("<f4")[:, None]
        for suffix, array in ((SUMS, sums), (COUNTS, counts)):
            shape = array.shape if len(array) > 1 else array.shape[1:]
            slots.append(Slot(name + suffix, shape, "F32", array.nbytes, ALIGNMENT))
            arrays.append(array)
    data = (array.tobytes().ljust(padded(array.nbytes), b"\0") for array in arrays)
    return header_bytes(_metadata(calibration), slots) + b"".join(data)


def _metadata(calibration: Calibration) -> Metadata:
    windows, window = calibration.sample.tokens.shape
    return {
        "general.type": text("imatrix"),
        "imatrix.datasets": texts([calibration.sample.source]),
        "imatrix.chunk_count": u32(windows),
        "imatrix.chunk_size": u32(window),
    }


def dat_bytes(calibration: Calibration) -> bytes:
    """The older binary form."""
    windows, window = calibration.sample.tokens.shape
    entries = list(_in_order(calibration))
    parts = [pack("<i", len(entries))]
    for name, statistics in entries:
        calls = -(-int(statistics.count.max()) // window)
        means = np.ones(statistics.sum_squares.shape)
        counts = statistics.count[:, None]
        np.divide(statistics.sum_squares, counts, out=means, where=counts > 0)
        values = (means * calls).astype("<f4").tobytes()
        parts += [_string(name), pack("<ii", calls, means.size), values]
    parts += [pack("<i", windows), _string(calibration.sample.source)]
    return b"".join(parts)


def _in_order(calibration: Calibration) -> list[tuple[str, InputStatistics]]:
    """By name, as llama.cpp has them; weights that no token reached are left out."""
    listed = sorted(calibration.by_weight.items())
    return [(name, statistics) for name, statistics in listed if statistics.count.any()]


def _string(value: str) -> bytes:
    data = value.encode()
    return pack("<i", len(data)) + data
