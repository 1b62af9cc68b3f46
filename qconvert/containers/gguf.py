"""GGUF files: the header first, then every tensor behind it, aligned.

    "GGUF" u32 version  u64 tensors  u64 pairs
    pairs:    key string, u32 type, value
    tensors:  name string, u32 dimensions, u64 sizes (innermost first), u32 type, u64 offset
    padding to the alignment
    data:     each tensor padded to the alignment

A model may be cut into shards as llama.cpp's own tool does:
`NAME-00001-of-0000N.gguf`, the first with all metadata. Source: ggml/docs/gguf.md.
"""

import struct
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import cached_property
from math import ceil
from pathlib import Path
from struct import pack

from gguf import GGUF_DEFAULT_ALIGNMENT, GGUF_VERSION, GGMLQuantizationType, GGUFValueType

from qconvert.checkpoint.metadata import Field, Metadata, text
from qconvert.containers.place import check_place
from qconvert.containers.target import Slot
from qconvert.errors import OutputError

ALIGNMENT: int = GGUF_DEFAULT_ALIGNMENT

SCALARS = {
    GGUFValueType.UINT8: "B",
    GGUFValueType.INT8: "b",
    GGUFValueType.BOOL: "?",
    GGUFValueType.UINT16: "H",
    GGUFValueType.INT16: "h",
    GGUFValueType.UINT32: "I",
    GGUFValueType.INT32: "i",
    GGUFValueType.FLOAT32: "f",
    GGUFValueType.UINT64: "Q",
    GGUFValueType.INT64: "q",
    GGUFValueType.FLOAT64: "d",
}
"""How `struct` calls them."""


@dataclass(frozen=True)
class Shard:
    """One file: its path, metadata and tensors, in order."""

    path: Path
    metadata: Metadata
    slots: tuple[Slot, ...]

    @cached_property
    def nbytes(self) -> int:
        """The exact size of the file."""
        return file_size(len(pairs_bytes(self.metadata)), self.slots)

    def header(self) -> bytes:
        return header_bytes(self.metadata, self.slots)


@dataclass(frozen=True)
class GgufFiles:
    """A GGUF file or its shards, in their order: a `Target`.

    Attributes:
        output: the file; with several shards `NAME.gguf` becomes `NAME-00001-of-0000N.gguf`.
        metadata: of the model.
        slots: every tensor, in the order of the files.
        split_max_size: bytes of tensor data that a shard may hold, as llama.cpp counts it; a
            single larger tensor gets a shard of its own. None for one file.
    """

    output: Path
    metadata: Metadata
    slots: Sequence[Slot]
    split_max_size: int | None = None

    @cached_property
    def weight_files(self) -> tuple[Shard, ...]:
        groups = _split(self.slots, self.split_max_size)
        if self.split_max_size is None:
            return (Shard(self.output, self.metadata, tuple(self.slots)),)
        shards = []
        for number, group in enumerate(groups):
            name = f"{self.output.stem}-{number + 1:05d}-of-{len(groups):05d}.gguf"
            split: Metadata = {
                "split.no": Field(GGUFValueType.UINT16, number),
                "split.count": Field(GGUFValueType.UINT16, len(groups)),
                "split.tensors.count": Field(GGUFValueType.INT32, len(self.slots)),
            }
            metadata = {**self.metadata, **split} if number == 0 else split
            shards.append(Shard(self.output.with_name(name), metadata, group))
        return tuple(shards)

    @property
    def path(self) -> Path:
        return self.weight_files[0].path

    @property
    def small_files(self) -> Mapping[Path, bytes]:
        return {}

    @contextmanager
    def making(self) -> Iterator[Sequence[Shard]]:
        """Each of the files gets its name when it is whole; see `containers.partial`."""
        yield self.weight_files

    @property
    def occupied(self) -> bool:
        return any(shard.path.exists() for shard in self.weight_files)

    def check(self) -> None:
        check_place(self.path)

    def elsewhere(self, path: Path, made_by: Mapping[str, str]) -> "GgufFiles":
        words = {key: text(value) for key, value in made_by.items()}
        return replace(self, output=path, metadata={**self.metadata, **words})

    def clear(self) -> None:
        """Nothing is in the way: files are replaced."""


def padded(count: int) -> int:
    """`count` rounded up to the alignment."""
    return ceil(count / ALIGNMENT) * ALIGNMENT


def _split(slots: Sequence[Slot], limit: int | None) -> list[tuple[Slot, ...]]:
    groups: list[list[Slot]] = [[]]
    filled = 0
    for slot in slots:
        if limit is not None and groups[-1] and filled + slot.padded > limit:
            groups.append([])
            filled = 0
        groups[-1].append(slot)
        filled += slot.padded
    return [tuple(group) for group in groups]


def header_bytes(metadata: Metadata, slots: Sequence[Slot]) -> bytes:
    """Everything before the data, padded to the alignment. Empty arrays are left out, as GGUF
    writers do."""
    pairs = [field for field in metadata.values() if not _is_empty(field)]
    head = b"GGUF" + pack("<IQQ", GGUF_VERSION, len(slots), len(pairs))
    data = head + pairs_bytes(metadata) + _infos_bytes(slots)
    return data.ljust(padded(len(data)), b"\0")


def pairs_bytes(metadata: Metadata) -> bytes:
    """The key-value pairs.

    Raises:
        OutputError: a value is none of its type.
    """
    made = []
    for key, field in metadata.items():
        if not _is_empty(field):
            try:
                made.append(_string_bytes(key) + pack("<I", field.type) + _value_bytes(field))
            except (struct.error, OverflowError, ValueError) as error:
                what = f"{key} = {field.value!r:.60} cannot be written as {field.type.name}"
                raise OutputError(what, "the source has a value that GGUF cannot hold") from error
    return b"".join(made)


def file_size(pairs: int, slots: Sequence[Slot]) -> int:
    """The exact size of a file with these tensors, and pairs of so many bytes."""
    return padded(24 + pairs + len(_infos_bytes(slots))) + sum(slot.padded for slot in slots)


def _is_empty(field: Field) -> bool:
    return field.type is GGUFValueType.ARRAY and len(field.value) == 0


def _string_bytes(value: str | bytes) -> bytes:
    data = value.encode() if isinstance(value, str) else value
    return pack("<Q", len(data)) + data


def _value_bytes(field: Field) -> bytes:
    """A value without key and type."""
    if field.type is GGUFValueType.STRING:
        return _string_bytes(field.value)
    if field.type is not GGUFValueType.ARRAY:
        return pack("<" + SCALARS[field.type], field.value)
    assert field.item is not None
    head = pack("<IQ", field.item, len(field.value))
    if field.item is GGUFValueType.STRING:
        return head + b"".join(map(_string_bytes, field.value))
    return head + pack(f"<{len(field.value)}{SCALARS[field.item]}", *field.value)


def _infos_bytes(slots: Sequence[Slot]) -> bytes:
    """What the tensors are, and where."""
    made, offset = [], 0
    for slot in slots:
        sizes, type_ = slot.shape[::-1], GGMLQuantizationType[slot.dtype]
        made.append(_string_bytes(slot.name))
        made.append(pack(f"<I{len(sizes)}QIQ", len(sizes), *sizes, type_, offset))
        offset += slot.padded
    return b"".join(made)
