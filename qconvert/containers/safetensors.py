"""Safetensors: a length, a JSON header, and the tensors behind it without gaps.

    | u64 length of the header | header | data |
    header: {"__metadata__": {...}, NAME: {"dtype": "F32", "shape": [..], "data_offsets": [a, b]}}

Offsets count from the end of the header, which spaces pad to a multiple of 8. Tensors of whole
multiples of 8 bytes come first in each file, in the order of the plan, and the few others behind
them, wide types before narrow ones, so every tensor is aligned to its element. A large model is
cut into shards,
`model-00001-of-0000N.safetensors`, which `model.safetensors.index.json` lists.
Source: the safetensors format description (github.com/huggingface/safetensors).
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from qconvert.checkpoint.dtypes import PLAIN
from qconvert.containers.target import Slot
from qconvert.containers.whole import renamed

INDEX_NAME = "model.safetensors.index.json"
HEADER_ALIGNMENT = 8

DTYPES = {
    "float64": "F64",
    "float32": "F32",
    "float16": "F16",
    "int64": "I64",
    "int32": "I32",
    "int16": "I16",
    "int8": "I8",
    "uint64": "U64",
    "uint32": "U32",
    "uint16": "U16",
    "uint8": "U8",
    "bool": "BOOL",
}
"""numpy's names, and safetensors'."""


@dataclass(frozen=True)
class Shard:
    """One file: its path, tensors in order, and what its header says beside them."""

    path: Path
    slots: tuple[Slot, ...]
    metadata: Mapping[str, str] = field(default_factory=dict)

    @property
    def nbytes(self) -> int:
        """The exact size of the file."""
        return len(self.header()) + sum(slot.nbytes for slot in self.slots)

    def header(self) -> bytes:
        """The length and the header."""
        entries: dict[str, object] = {"__metadata__": dict(self.metadata)}
        position = 0
        for slot in self.slots:
            end = position + slot.nbytes
            entries[slot.name] = {
                "dtype": slot.dtype,
                "shape": list(slot.shape),
                "data_offsets": [position, end],
            }
            position = end
        text = json.dumps(entries, separators=(",", ":"), ensure_ascii=False).encode()
        text += b" " * (-len(text) % HEADER_ALIGNMENT)
        return len(text).to_bytes(8, "little") + text


def lay_out(
    folder: Path, slots: Sequence[Slot], metadata: Mapping[str, str], max_shard_size: int
) -> tuple[Shard, ...]:
    """The files to write into a folder.

    Args:
        slots: in the order in which shards are filled.
        metadata: for each file's header.
        max_shard_size: bytes of tensor data that a shard may hold; a single larger tensor gets a
            shard of its own.
    """
    groups: list[list[Slot]] = [[]]
    filled = 0
    for slot in slots:
        if groups[-1] and filled + slot.nbytes > max_shard_size:
            groups.append([])
            filled = 0
        groups[-1].append(slot)
        filled += slot.nbytes
    return tuple(
        Shard(folder / shard_name(number, len(groups)), _aligned(group), metadata)
        for number, group in enumerate(groups, 1)
    )


def shard_name(number: int, count: int) -> str:
    """The name of a shard, counted from one."""
    return "model.safetensors" if count == 1 else f"model-{number:05}-of-{count:05}.safetensors"


def _aligned(slots: Sequence[Slot]) -> tuple[Slot, ...]:
    whole = [slot for slot in slots if slot.nbytes % HEADER_ALIGNMENT == 0]
    rest = [slot for slot in slots if slot.nbytes % HEADER_ALIGNMENT]
    return (*whole, *sorted(rest, key=lambda slot: -PLAIN[slot.dtype]))


def index_json(shards: Sequence[Shard]) -> bytes:
    """The index of several shards."""
    weight_map = {slot.name: shard.path.name for shard in shards for slot in shard.slots}
    total = sum(slot.nbytes for shard in shards for slot in shard.slots)
    index = {"metadata": {"total_size": total}, "weight_map": dict(sorted(weight_map.items()))}
    return (json.dumps(index, indent=2, ensure_ascii=False) + "\n").encode()


def write_arrays(
    path: Path, arrays: Mapping[str, np.ndarray], metadata: Mapping[str, str], hint: str
) -> None:
    """Write a file of arrays that are in memory; it appears when it is whole. Nobody else may
    write it meanwhile.

    Args:
        arrays: C-ordered and little-endian, of types in DTYPES.
        hint: what to do where it cannot be written.

    Raises:
        OutputError: it cannot be written.
    """
    # Wide elements first: so each array is aligned.
    ordered = sorted(arrays.items(), key=lambda item: -item[1].itemsize)
    slots = tuple(Slot(name, a.shape, DTYPES[a.dtype.name], a.nbytes) for name, a in ordered)
    header = Shard(path, slots, metadata).header()
    temporary = path.with_name(f".{path.name}.writing")
    with renamed(temporary, path, hint), temporary.open("wb") as file:
        file.write(header)
        for _, array in ordered:
            file.write(array.reshape(-1).data)
