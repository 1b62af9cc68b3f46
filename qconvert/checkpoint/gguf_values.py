"""The values of a GGUF header: a cursor over its bytes, and a reader for each type.

Source: the GGUF specification (ggml/docs/gguf.md).
"""

import struct
from typing import Any

import numpy as np
from gguf import GGUFValueType

from qconvert.checkpoint.metadata import Field
from qconvert.errors import CheckpointError

MAX_DEPTH = 4
SCALARS: dict[GGUFValueType, str] = {
    GGUFValueType.UINT8: "<u1",
    GGUFValueType.INT8: "<i1",
    GGUFValueType.UINT16: "<u2",
    GGUFValueType.INT16: "<i2",
    GGUFValueType.UINT32: "<u4",
    GGUFValueType.INT32: "<i4",
    GGUFValueType.FLOAT32: "<f4",
    GGUFValueType.BOOL: "<u1",
    GGUFValueType.UINT64: "<u8",
    GGUFValueType.INT64: "<i8",
    GGUFValueType.FLOAT64: "<f8",
}
# The length of a string, and the type and length of an array.
MIN_ITEM = {GGUFValueType.STRING: 8, GGUFValueType.ARRAY: 12}
VALUES = {int(member): member for member in GGUFValueType}
U64 = struct.Struct("<Q")


class NeedMoreError(Exception):
    """The header goes on behind the bytes at hand, and may do so in this file."""


class Cursor:
    """A place in the first bytes of a file.

    Attributes:
        data: the bytes at hand.
        size: of the file; nothing may claim to reach beyond.
        where: names the file in messages.
        position: of the next byte.
    """

    def __init__(self, data: bytes, size: int, where: str) -> None:
        self.data = data
        self.size = size
        self.where = where
        self.position = 0

    @property
    def left(self) -> int:
        return self.size - self.position

    def need(self, count: int) -> None:
        """Raise unless that many bytes follow."""
        if count > self.left:
            raise CheckpointError(
                f"{self.where}: the header claims {count} bytes where {self.left} are left",
                "the file may be truncated: download or copy it again",
            )
        if self.position + count > len(self.data):
            raise NeedMoreError

    def take(self, count: int) -> bytes:
        self.need(count)
        begin = self.position
        self.position += count
        return self.data[begin : self.position]

    def u32(self) -> int:
        return int.from_bytes(self.take(4), "little")

    def u64(self) -> int:
        return int.from_bytes(self.take(8), "little")


def read_text(cursor: Cursor, longest: int) -> str:
    """A string: u64 length, UTF-8."""
    length = cursor.u64()
    if length > longest:
        raise CheckpointError(f"{cursor.where}: a string of {length} bytes where {longest} may be")
    try:
        return cursor.take(length).decode("utf-8")
    except UnicodeDecodeError as error:
        raise CheckpointError(f"{cursor.where}: text that is not UTF-8: {error}") from error


def read_value(cursor: Cursor, kind: GGUFValueType, depth: int) -> Field:
    """A value of a known type. An array of arrays holds a `Field` for each."""
    if kind == GGUFValueType.STRING:
        return Field(kind, read_text(cursor, cursor.size))
    if kind != GGUFValueType.ARRAY:
        return Field(kind, _scalars(cursor, kind, 1)[0])
    code, count = cursor.u32(), cursor.u64()
    if code not in VALUES:
        raise CheckpointError(f"{cursor.where}: an array of a type that is not known: {code}")
    item = VALUES[code]
    if item in SCALARS:
        return Field(kind, _scalars(cursor, item, count), item)
    if count * MIN_ITEM[item] > cursor.left:
        raise CheckpointError(f"{cursor.where}: an array of {count} items in {cursor.left} bytes")
    if item == GGUFValueType.STRING:
        return Field(kind, _texts(cursor, count), item)
    if depth >= MAX_DEPTH:
        raise CheckpointError(f"{cursor.where}: arrays are nested too deeply")
    return Field(kind, [read_value(cursor, item, depth + 1) for _ in range(count)], item)


def _scalars(cursor: Cursor, kind: GGUFValueType, count: int) -> list[Any]:
    dtype = np.dtype(SCALARS[kind])
    values = np.frombuffer(cursor.take(count * dtype.itemsize), dtype)
    if kind == GGUFValueType.BOOL:
        if values.size and values.max() > 1:
            raise CheckpointError(f"{cursor.where}: a bool that is neither 0 nor 1")
        values = values.astype(bool)
    return list(values.tolist())


def _texts(cursor: Cursor, count: int) -> list[str]:
    # Vocabularies are most of a header: one tight loop, bounds checked by what slices return.
    data, position, end = cursor.data, cursor.position, len(cursor.data)
    unpack, texts = U64.unpack_from, []
    try:
        for _ in range(count):
            begin = position + 8
            position = begin + unpack(data, position)[0]
            if position > end:
                cursor.position = begin
                cursor.need(position - begin)
            texts.append(data[begin:position].decode())
    except struct.error:
        raise NeedMoreError from None
    except UnicodeDecodeError as error:
        raise CheckpointError(f"{cursor.where}: text that is not UTF-8: {error}") from error
    cursor.position = position
    return texts
