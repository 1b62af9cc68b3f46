"""GGUF files: metadata and tensors from the header.

    | "GGUF" | u32 version | u64 tensors | u64 pairs |
    | pairs: key, u32 type, value |
    | tensors: name, u32 n, u64 dimensions[n] (innermost first), u32 type, u64 offset |
    | padding | data, each tensor padded to `general.alignment` |

Source: the GGUF specification (ggml/docs/gguf.md), versions 2 and 3. A file may come in shards,
`name-00001-of-00003.gguf`, whose first holds the metadata.
"""

import re
from collections.abc import Mapping
from dataclasses import replace
from math import prod
from pathlib import Path

from gguf import GGML_QUANT_SIZES, GGMLQuantizationType, GGUFValueType

from qconvert.checkpoint.files import check_tensor, file_size, read_bytes_at
from qconvert.checkpoint.gguf_values import Cursor, NeedMoreError, read_text, read_value
from qconvert.checkpoint.metadata import Field, Metadata
from qconvert.checkpoint.types import Checkpoint, TensorInfo
from qconvert.errors import CheckpointError, UnsupportedError

FIRST_READ = 16 << 20
MAX_HEADER = 256 << 20
MAX_ALIGNMENT = 1 << 20
MAX_NAME = 64
MAX_KEY = 65535
MAX_DIMENSIONS = 4
# The fewest bytes that a key-value pair and a tensor can take.
MIN_PAIR = 8 + 1 + 4 + 1
MIN_TENSOR = 8 + 1 + 4 + 4 + 8
SHARD = re.compile(r"(?P<stem>.*)-(?P<number>\d{5})-of-(?P<count>\d{5})\.gguf")
TRUNCATED = "the file may be truncated: download or copy it again"
TYPES = {int(member): member for member in GGMLQuantizationType}
VALUES = {int(member): member for member in GGUFValueType}


def open_gguf(path: Path, source: str) -> Checkpoint:
    """Index a file, and the other shards where it is the first of several.

    Raises:
        CheckpointError: a header contradicts itself or its file, or a shard is missing.
        UnsupportedError: a version or a tensor type that is not read.
    """
    metadata, tensors = read_gguf(path)
    count = metadata.get("split.count")
    if count is not None and isinstance(count.value, int) and count.value > 1:
        tensors = _read_shards(path, metadata, tensors, count.value)
    # What is read is the whole, in however many files it was stored.
    metadata = {key: field for key, field in metadata.items() if not key.startswith("split.")}
    return Checkpoint("gguf", source, path, metadata=metadata, tensors=with_scales(tensors))


def read_gguf(path: Path) -> tuple[Metadata, dict[str, TensorInfo]]:
    """The metadata and the tensors of one file, in the order of its header."""
    size = file_size(path)
    wanted = min(size, FIRST_READ)
    while True:
        cursor = Cursor(read_bytes_at(path, 0, wanted), size, str(path))
        try:
            return _parse(path, cursor)
        except NeedMoreError:
            # Nearly all headers fit the first read; parsing a longer one again costs little.
            if wanted >= size:
                raise CheckpointError(f"{path}: the header is cut short", TRUNCATED) from None
            if wanted >= MAX_HEADER:
                raise CheckpointError(f"{path}: the header is too long") from None
            wanted = min(size, wanted * 4)


def _parse(path: Path, cursor: Cursor) -> tuple[Metadata, dict[str, TensorInfo]]:
    tensor_count, pair_count = _read_start(path, cursor)
    metadata: Metadata = {}
    for _ in range(pair_count):
        key = read_text(cursor, MAX_KEY)
        if not key or not key.isprintable() or key in metadata:
            raise CheckpointError(f"{path}: {key!r:.80} is no key, or appears twice")
        metadata[key] = _read_field(cursor, key)
    alignment = _alignment(path, metadata)
    entries = [_read_tensor(path, cursor) for _ in range(tensor_count)]
    data = -(-cursor.position // alignment) * alignment
    tensors: dict[str, TensorInfo] = {}
    for name, shape, dtype, offset in entries:
        if name in tensors:
            raise CheckpointError(f"{path}: tensor {name!r:.80} appears twice")
        if offset % alignment:
            raise CheckpointError(f"{path}: tensor {name!r:.80} is not aligned to {alignment}")
        nbytes = _nbytes(path, name, shape, dtype)
        tensors[name] = TensorInfo(name, shape, dtype.name, path, data + offset, nbytes)
    _check_extents(path, tensors, cursor.size)
    return metadata, tensors


def with_scales(tensors: Mapping[str, TensorInfo]) -> dict[str, TensorInfo]:
    """NVFP4 tensors with the float32 that lies beside them, and what is told of their inputs left
    out."""
    found = dict(tensors)
    for name, tensor in tensors.items():
        stem = name.removesuffix(".weight")
        scale = tensors.get(f"{stem}.scale")
        if tensor.dtype != "NVFP4" or scale is None or scale.dtype != "F32":
            continue
        matrix = tensor.shape[-2] if len(tensor.shape) > 1 else 1
        if scale.elements * matrix != tensor.rows:
            raise CheckpointError(f"{tensor.path}: {scale.name!r:.80} does not fit its tensor")
        alone = replace(scale, shape=(scale.elements, 1))
        found[name] = replace(tensor, scale=alone, block=(matrix, tensor.columns))
        del found[scale.name]
        found.pop(f"{stem}.input_scale", None)
    return found


def _read_start(path: Path, cursor: Cursor) -> tuple[int, int]:
    if cursor.size < 4 or cursor.take(4) != b"GGUF":
        raise CheckpointError(f"{path} is not a GGUF file")
    version = cursor.u32()
    if version & 0xFFFF == 0 and version:
        raise UnsupportedError(f"{path} is a big-endian GGUF file", "convert the model again")
    if version not in (2, 3):
        raise UnsupportedError(
            f"{path} is GGUF version {version}; versions 2 and 3 are read",
            "convert the model again",
        )
    tensor_count, pair_count = cursor.u64(), cursor.u64()
    if tensor_count * MIN_TENSOR + pair_count * MIN_PAIR > cursor.left:
        raise CheckpointError(
            f"{path}: {tensor_count} tensors and {pair_count} keys do not fit a file of "
            f"{cursor.size} bytes",
            TRUNCATED,
        )
    return tensor_count, pair_count


def _read_field(cursor: Cursor, key: str) -> Field:
    code = cursor.u32()
    if code not in VALUES:
        raise CheckpointError(f"{cursor.where}: {key!r:.80} has a type that is not known: {code}")
    return read_value(cursor, VALUES[code], 0)


def _alignment(path: Path, metadata: Metadata) -> int:
    field = metadata.get("general.alignment")
    if field is None:
        return 32
    value = field.value
    if field.type != GGUFValueType.UINT32 or not 0 < value <= MAX_ALIGNMENT or value & (value - 1):
        raise CheckpointError(f"{path}: impossible general.alignment: {value!r:.40}")
    return int(value)


def _read_tensor(
    path: Path, cursor: Cursor
) -> tuple[str, tuple[int, ...], GGMLQuantizationType, int]:
    name = read_text(cursor, MAX_NAME)
    dimensions = cursor.u32()
    if dimensions > MAX_DIMENSIONS:
        raise CheckpointError(f"{path}: tensor {name!r:.80} has {dimensions} dimensions")
    shape = tuple(reversed([cursor.u64() for _ in range(dimensions)]))
    check_tensor(path, name, shape)
    code = cursor.u32()
    if code not in TYPES:
        raise UnsupportedError(
            f"{path}: tensor {name!r:.80} has a type that is not known: {code}",
            "the file was made by a newer or a very old llama.cpp",
        )
    return name, shape, TYPES[code], cursor.u64()


def _nbytes(path: Path, name: str, shape: tuple[int, ...], dtype: GGMLQuantizationType) -> int:
    block, block_bytes = GGML_QUANT_SIZES[dtype]
    columns = shape[-1] if shape else 1
    if columns % block:
        raise CheckpointError(
            f"{path}: rows of {columns} in tensor {name!r:.80} are no multiple of {dtype.name}'s "
            f"block of {block}"
        )
    return prod(shape) // int(block) * int(block_bytes)


def _check_extents(path: Path, tensors: Mapping[str, TensorInfo], size: int) -> None:
    reached = 0
    for tensor in sorted(tensors.values(), key=lambda tensor: (tensor.offset, tensor.nbytes)):
        end = tensor.offset + tensor.nbytes
        if end > size:
            raise CheckpointError(
                f"{path}: tensor {tensor.name!r:.80} ends at byte {end}, the file at {size}",
                TRUNCATED,
            )
        if tensor.nbytes and tensor.offset < reached:
            raise CheckpointError(f"{path}: tensor {tensor.name!r:.80} overlaps another")
        reached = max(reached, end)


def _read_shards(
    path: Path, metadata: Metadata, tensors: dict[str, TensorInfo], count: int
) -> dict[str, TensorInfo]:
    match = SHARD.fullmatch(path.name)
    if match is None or int(match["count"]) != count:
        raise CheckpointError(
            f"{path} is one of {count} shards, and its name does not say which",
            f"shards are named as {path.stem}-00001-of-{count:05}.gguf",
        )
    names = [f"{match['stem']}-{i:05}-of-{count:05}.gguf" for i in range(1, count + 1)]
    if int(match["number"]) != 1:
        raise CheckpointError(
            f"{path} is not the first shard", f"name the first: {path.with_name(names[0])}"
        )
    present = {entry.name for entry in path.parent.iterdir()}
    missing = [name for name in names if name not in present]
    if missing:
        raise CheckpointError(
            f"{len(missing)} of {count} shards missing: {', '.join(missing[:3])}",
            "the download may be incomplete: fetch the missing files",
        )
    result = dict(tensors)
    for number, shard in enumerate(map(path.with_name, names[1:]), 1):
        its, more = read_gguf(shard)
        if _integer(its, "split.no") != number or _integer(its, "split.count") != count:
            raise CheckpointError(f"{shard} does not belong to the shards of {path.name}")
        twice = next((name for name in more if name in result), None)
        if twice is not None:
            raise CheckpointError(f"{shard}: tensor {twice!r:.80} is in another shard too")
        result |= more
    promised = _integer(metadata, "split.tensors.count")
    if promised is not None and promised != len(result):
        raise CheckpointError(f"{path}: {promised} tensors promised, {len(result)} in the shards")
    return result


def _integer(metadata: Metadata, key: str) -> int | None:
    field = metadata.get(key)
    return field.value if field is not None and type(field.value) is int else None
