"""GGUF files: the header first, then every tensor behind it, aligned.

    "GGUF" u32 version  u64 tensors  u64 pairs
    pairs:    key string, u32 type, value
    tensors:  name string, u32 dimensions, u64 sizes (innermost first), u32 type, u64 offset
    padding to the alignment
    data:     each tensor padded to the alignment

The `gguf` package writes the header. A model may be cut into shards as llama.cpp's own tool does:
`NAME-00001-of-0000N.gguf`, the first with all metadata. Source: ggml/docs/gguf.md.
"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from math import ceil
from pathlib import Path
from tempfile import TemporaryDirectory

from gguf import GGUF_DEFAULT_ALIGNMENT, GGMLQuantizationType, GGUFValueType, GGUFWriter

from qconvert.checkpoint.metadata import Field, Metadata
from qconvert.containers.target import Slot

ALIGNMENT: int = GGUF_DEFAULT_ALIGNMENT

SCALAR_BYTES = {
    GGUFValueType.UINT8: 1,
    GGUFValueType.INT8: 1,
    GGUFValueType.BOOL: 1,
    GGUFValueType.UINT16: 2,
    GGUFValueType.INT16: 2,
    GGUFValueType.UINT32: 4,
    GGUFValueType.INT32: 4,
    GGUFValueType.FLOAT32: 4,
    GGUFValueType.UINT64: 8,
    GGUFValueType.INT64: 8,
    GGUFValueType.FLOAT64: 8,
}


@dataclass(frozen=True)
class Shard:
    """One file: its path, metadata and tensors, in order."""

    path: Path
    metadata: Metadata
    slots: tuple[Slot, ...]

    @cached_property
    def nbytes(self) -> int:
        """The exact size of the file."""
        return file_size(pairs_size(self.metadata), self.slots)

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
    """Everything before the data, padded to the alignment."""
    writer = GGUFWriter(None, "")
    for values in writer.kv_data:
        values.clear()
    for key, field in metadata.items():
        if not is_empty(field):
            writer.add_key_value(key, field.value, field.type, field.item)
    for slot in slots:
        writer.tensors[0][slot.name] = _tensor_info(slot)
    with TemporaryDirectory() as folder:
        path = Path(folder, "header.gguf")
        writer.write_header_to_file(path)
        writer.write_kv_data_to_file()
        writer.write_ti_data_to_file()
        writer.close()
        data = path.read_bytes()
    return data.ljust(padded(len(data)), b"\0")


def _tensor_info(slot: Slot):  # type: ignore[no-untyped-def]
    """The writer's own record; its `add_tensor_info` wants byte shapes and refuses some types."""
    from gguf.gguf_writer import TensorInfo

    return TensorInfo(shape=slot.shape, dtype=GGMLQuantizationType[slot.dtype], nbytes=slot.nbytes)


def is_empty(field: Field) -> bool:
    """Whether it is an empty array, which GGUF writers leave out."""
    return field.type is GGUFValueType.ARRAY and len(field.value) == 0


def pairs_size(metadata: Metadata) -> int:
    """Bytes of the key-value pairs."""
    return sum(
        string_size(key) + 4 + field_size(field)
        for key, field in metadata.items()
        if not is_empty(field)
    )


def header_size(pairs: int, slots: Sequence[Slot]) -> int:
    """The length of `header_bytes`, without making it; `pairs` is the metadata's `pairs_size`."""
    infos = sum(string_size(slot.name) + 4 + 8 * len(slot.shape) + 4 + 8 for slot in slots)
    return padded(24 + pairs + infos)


def file_size(pairs: int, slots: Sequence[Slot]) -> int:
    """The exact size of a file with these pairs and tensors."""
    return header_size(pairs, slots) + sum(slot.padded for slot in slots)


def string_size(value: str | bytes) -> int:
    if isinstance(value, str) and not value.isascii():
        value = value.encode()
    return 8 + len(value)


def field_size(field: Field) -> int:
    """Bytes of a value as it is stored, without key and type."""
    if field.type is GGUFValueType.STRING:
        return string_size(field.value)
    if field.type is not GGUFValueType.ARRAY:
        return SCALAR_BYTES[field.type]
    if field.item is GGUFValueType.STRING:
        return 12 + sum(map(string_size, field.value))
    assert field.item is not None
    return 12 + len(field.value) * SCALAR_BYTES[field.item]
