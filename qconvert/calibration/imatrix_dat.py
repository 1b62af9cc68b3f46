"""llama.cpp's importance matrix in its older binary form, usually named imatrix.dat.

    i32 entries
    each:  i32 length, name    i32 calls    i32 count    f32[count] values
    i32 chunks                              both may be missing at the end
    i32 length, name of the text

All numbers are little-endian. Values are means times `calls`. All matrices of a weight (experts)
lie end to end, and the file does not say how many they are; one that was never seen has ones for
its means. Source: llama.cpp's tools/imatrix (the writer) and common/imatrix-loader.cpp.
"""

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from qconvert.calibration.importance import Importance, fill_blank
from qconvert.checkpoint.files import file_size, read_bytes_at
from qconvert.errors import CheckpointError

LONGEST_NAME = 512
SMALLEST_ENTRY = 17
"""Bytes of an entry with a name of one letter and one value."""

HINT = "make it anew with llama-imatrix"


@dataclass
class _Reader:
    """Reads a file from front to back."""

    path: Path
    size: int
    position: int = 0

    def take(self, count: int, what: str) -> bytes:
        if count > self.size - self.position:
            raise CheckpointError(f"{self.path} is cut short in {what}", HINT)
        data = read_bytes_at(self.path, self.position, count)
        if len(data) != count:
            raise CheckpointError(f"{self.path} is cut short in {what}", HINT)
        self.position += count
        return data

    def number(self, what: str) -> int:
        return int.from_bytes(self.take(4, what), "little", signed=True)

    @property
    def at_end(self) -> bool:
        return self.position == self.size


def is_dat(path: Path) -> bool:
    """Whether a file begins as this form does: a possible count, then a name."""
    size = file_size(path)
    head = read_bytes_at(path, 0, min(8 + LONGEST_NAME, size))
    if len(head) <= 8:
        return False
    entries = int.from_bytes(head[:4], "little", signed=True)
    length = int.from_bytes(head[4:8], "little", signed=True)
    name = head[8 : 8 + max(length, 0)]
    possible = 1 <= entries <= size // SMALLEST_ENTRY and 1 <= length <= LONGEST_NAME
    return possible and name.isascii() and name.decode().isprintable()


def read_dat(path: Path) -> Importance:
    """Reads the older binary form. What it holds is `undivided`.

    Raises:
        CheckpointError: the file is cut short, or a number in it cannot be.
    """
    reader = _Reader(path, file_size(path))
    entries = reader.number("the count of its entries")
    if not 1 <= entries <= reader.size // SMALLEST_ENTRY:
        raise CheckpointError(f"{path} cannot hold {entries} entries", HINT)
    values, unseen = {}, {}
    for number in range(1, entries + 1):
        name, means = _read_entry(reader, number)
        if name in values:
            raise CheckpointError(f"{path}: {name} appears twice", HINT)
        values[name], blank = fill_blank(means[None], np.zeros(1, bool))
        if blank:
            unseen[name] = blank
    chunks = 0 if reader.at_end else reader.number("the count of chunks")
    text = "" if reader.at_end else _read_text(reader, "the name of the text")
    if chunks < 0 or not reader.at_end:
        raise CheckpointError(f"{path} ends in what is no name of a text", HINT)
    return Importance(path, values, (text,) if text else (), chunks, unseen=unseen, undivided=True)


def _read_entry(reader: _Reader, number: int) -> tuple[str, np.ndarray]:
    """The name of a weight, and its means, float32 [count]."""
    path = reader.path
    name = _read_text(reader, f"the name of entry {number}", LONGEST_NAME)
    if not name:
        raise CheckpointError(f"{path}: entry {number} has no name", HINT)
    calls = reader.number(name)
    count = reader.number(name)
    if calls < 0 or count < 1:
        raise CheckpointError(f"{path}: {name} has {count} values of {calls} calls", HINT)
    sums = np.frombuffer(reader.take(4 * count, name), "<f4")
    if not np.isfinite(sums).all():
        raise CheckpointError(f"{path}: {name} has values that are NaN or infinite", HINT)
    if (sums < 0).any():
        raise CheckpointError(f"{path}: {name} has values below zero", HINT)
    return name, sums / np.float32(max(calls, 1))


def _read_text(reader: _Reader, what: str, longest: int | None = None) -> str:
    length = reader.number(what)
    if length < 0 or (longest is not None and length > longest):
        raise CheckpointError(f"{reader.path}: {what} cannot have {length} bytes", HINT)
    try:
        text = reader.take(length, what).decode("utf-8")
    except UnicodeDecodeError as error:
        raise CheckpointError(f"{reader.path}: {what} is no text", HINT) from error
    if not text.isprintable():
        raise CheckpointError(f"{reader.path}: {what} is no text", HINT)
    return text
