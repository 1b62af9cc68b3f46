"""GGUF's typed key-value pairs, as plain data that every room can pass on.

Source: the GGUF specification (ggml/docs/gguf.md).
"""

from collections.abc import Sequence
from numbers import Real
from typing import Any, NamedTuple

from gguf import GGUFValueType

from qconvert.errors import CheckpointError

LARGEST_F32 = 3.4028235677973366e38
"""Beyond this a number rounds to infinity."""


class Field(NamedTuple):
    """A value with its GGUF type.

    Attributes:
        type: the value's type; ARRAY for a list.
        value: a bool, int, float, str, or a sequence of them.
        item: for an array, the type of its items.
    """

    type: GGUFValueType
    value: Any
    item: GGUFValueType | None = None


def u32(value: int) -> Field:
    return Field(GGUFValueType.UINT32, _whole(value, 32))


def u64(value: int) -> Field:
    return Field(GGUFValueType.UINT64, _whole(value, 64))


def f32(value: float) -> Field:
    """A finite float32.

    Raises:
        CheckpointError: the number is none.
    """
    if not isinstance(value, Real) or not abs(value) < LARGEST_F32:
        raise CheckpointError(f"{value!r:.60} is no number that GGUF can hold")
    return Field(GGUFValueType.FLOAT32, float(value))


def flag(value: bool) -> Field:
    return Field(GGUFValueType.BOOL, bool(value))


def text(value: str) -> Field:
    """A string; what UTF-8 cannot hold (parts of odd file names) is replaced."""
    return Field(GGUFValueType.STRING, str(value).encode("utf-8", "replace").decode())


def texts(values: Sequence[str]) -> Field:
    return Field(GGUFValueType.ARRAY, list(values), GGUFValueType.STRING)


def i32s(values: Sequence[int]) -> Field:
    return Field(GGUFValueType.ARRAY, list(values), GGUFValueType.INT32)


def f32s(values: Sequence[float]) -> Field:
    return Field(GGUFValueType.ARRAY, list(values), GGUFValueType.FLOAT32)


def flags(values: Sequence[bool]) -> Field:
    return Field(GGUFValueType.ARRAY, list(values), GGUFValueType.BOOL)


def _whole(value: int, bits: int) -> int:
    if not isinstance(value, Real) or not 0 <= value < 1 << bits or value != int(value):
        raise CheckpointError(f"{value!r:.60} is no whole number of {bits} bits, as GGUF wants it")
    return int(value)


Metadata = dict[str, Field]
