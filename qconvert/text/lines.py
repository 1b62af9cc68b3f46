"""Text files as bytes, lines and parts, with every fault named by its place.

Files are UTF-8, with or without a byte order mark.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

import numpy as np

from qconvert.checkpoint.files import file_size, read_bytes_at, reason
from qconvert.errors import CheckpointError

BOM = "\ufeff"
LONGEST_LINE = 1 << 26
_PACKED = {
    b"\x1f\x8b": "compressed with gzip",
    b"BZh": "compressed with bzip2",
    b"\xfd7zXZ": "compressed with xz",
    b"\x28\xb5\x2f\xfd": "compressed with zstd",
    b"PK\x03\x04": "a zip archive",
    b"PAR1": "a Parquet file",
    b"%PDF": "a PDF",
    b"\xff\xfe": "UTF-16",
    b"\xfe\xff": "UTF-16",
}
_HINTS = {"UTF-16": "make it UTF-8: iconv -f UTF-16 -t UTF-8", "a Parquet file": "name it .parquet"}


def check_text(path: Path, name: str) -> int:
    """The size of a file that looks like text.

    Raises:
        CheckpointError: it is missing, a directory, empty, or something else than text.
    """
    if path.is_dir():
        raise CheckpointError(f"{name} is a directory", "name the files in it")
    size = file_size(path)
    if size == 0:
        raise CheckpointError(f"{name} is empty", "name a file with text in it")
    head = read_bytes_at(path, 0, min(size, 4096))
    for magic, what in _PACKED.items():
        if head.startswith(magic):
            raise CheckpointError(f"{name} is {what}", _HINTS.get(what, "unpack it first"))
    if b"\0" in head:
        raise CheckpointError(f"{name} is not text: it has zero bytes", "name a file with text")
    return size


def decode(data: bytes, name: str, offset: int = 0, line: int = 0) -> str:
    """Bytes as text.

    Args:
        data: UTF-8.
        name: of the file, for the message.
        offset: where in the file the bytes begin.
        line: their line's number, where it is known.

    Raises:
        CheckpointError: they are not UTF-8; the message says which byte and where.
    """
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError as error:
        number = line or data.count(b"\n", 0, error.start) + 1
        where = f"line {number}, " if line or offset == 0 else ""
        raise CheckpointError(
            f"{name} is not UTF-8: 0x{data[error.start]:02x} at {where}byte {offset + error.start}",
            "make it UTF-8, for instance: iconv -f ISO-8859-1 -t UTF-8",
        ) from error


def read_lines(path: Path, name: str) -> Iterator[tuple[int, str]]:
    """The lines with their ends, and their numbers from 1."""
    try:
        with path.open("rb") as file:
            number = offset = 0
            while data := file.readline(LONGEST_LINE + 1):
                number += 1
                if len(data) > LONGEST_LINE:
                    raise CheckpointError(f"{name}: line {number} is longer than 64 MiB")
                text = decode(data, name, offset, number)
                yield number, text.removeprefix(BOM) if number == 1 else text
                offset += len(data)
    except OSError as error:
        raise CheckpointError(f"{name}: {reason(error)}") from error


def read_lines_in_parts(
    path: Path, name: str, size: int, parts: int, length: int, draw: np.random.Generator
) -> Iterator[tuple[int, str]]:
    """Whole lines from somewhere in each of as many equal parts of a large file.

    Args:
        path: a file with `size` bytes.
        name: of the file, for messages.
        parts: how many.
        length: bytes of the lines from each, at least.
        draw: decides where in its part they lie.

    Yields:
        The byte at which a line begins, and the line.
    """
    try:
        with path.open("rb") as file:
            for number in range(parts):
                low, high = size * number // parts, size * (number + 1) // parts
                start = int(draw.integers(low, max(low, high - length) + 1))
                if start > file.tell():
                    file.seek(start - 1)
                    _one_line(file, name)
                end = file.tell() + length
                while file.tell() < end and (data := _one_line(file, name)):
                    at = file.tell() - len(data)
                    yield at, decode(data, name, at).removeprefix(BOM)
    except OSError as error:
        raise CheckpointError(f"{name}: {reason(error)}") from error


def _one_line(file: BinaryIO, name: str) -> bytes:
    data = file.readline(LONGEST_LINE + 1)
    if len(data) > LONGEST_LINE:
        raise CheckpointError(f"{name} has a line longer than 64 MiB")
    return data


def read_parts(
    path: Path, size: int, parts: int, length: int, draw: np.random.Generator
) -> Iterator[tuple[int, bytes]]:
    """Pieces of a large file, one from somewhere in each of as many equal parts of it.

    Each begins after a line break and ends with one where its lines are short enough, else
    between words, else between characters.

    Args:
        path: a file with `size` bytes.
        parts: how many.
        length: bytes of each, at most a part's.
        draw: decides where in its part each lies.

    Yields:
        The byte at which a piece begins, and the piece.
    """
    done = 0
    for number in range(parts):
        low, high = size * number // parts, size * (number + 1) // parts
        start = int(draw.integers(low, max(low, high - length) + 1))
        start = max(start, done)
        data = read_bytes_at(path, start, min(length, size - start))
        if not data:
            return
        begin, end = _whole_lines(data, start == 0, start + len(data) == size)
        done = start + end
        yield start + begin, data[begin:end]


def _whole_lines(data: bytes, is_first: bool, is_last: bool) -> tuple[int, int]:
    """Where lines begin and end in a piece; words, else characters, where lines are longer."""
    begin, end = 0, len(data)
    for mark in (b"\n", b" "):
        at = data.find(mark, 0, len(data) // 2)
        if at >= 0 and not is_first:
            begin = at + 1
            break
    for mark in (b"\n", b" "):
        at = data.rfind(mark, len(data) // 2)
        if at >= 0 and not is_last:
            end = at + (mark == b"\n")
            break
    if not is_first:
        while begin < min(end, 3) and data[begin] & 0xC0 == 0x80:
            begin += 1
    if not is_last and end == len(data):
        end = _whole_characters(data)
    return begin, end


def _whole_characters(data: bytes) -> int:
    """The end of the last character that is there in full."""
    for back in range(1, min(4, len(data)) + 1):
        byte = data[-back]
        if byte & 0xC0 != 0x80:
            needed = 1 + (byte >= 0xC0) + (byte >= 0xE0) + (byte >= 0xF0)
            return len(data) if back >= needed else len(data) - back
    return len(data)
