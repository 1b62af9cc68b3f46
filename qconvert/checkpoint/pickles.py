"""pytorch_model.bin: names, shapes, dtypes and byte ranges, without running a pickle.

A file of `torch.save` is a zip archive whose entries are stored, not compressed:

    archive/data.pkl    the pickled dictionary; a tensor is a call that names a storage's key
    archive/data/<key>  the bytes of one storage, shared by all tensors that view it

Before torch 1.6 it was a row of pickles with the storages behind them:

    magic | protocol | system | dictionary | keys | for each key: u64 elements, bytes

Source: the description of the format in torch's "Serialization semantics" note. The dictionary
is read by `unpickle`, which builds plain data and has nothing to call.
"""

import io
import struct
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any, BinaryIO

from qconvert.checkpoint.dtypes import PLAIN
from qconvert.checkpoint.files import check_tensor, file_size, read_bytes_at, reason
from qconvert.checkpoint.foreign import foreign_state
from qconvert.checkpoint.types import TensorInfo
from qconvert.checkpoint.unpickle import Tensor, unpickle
from qconvert.errors import CheckpointError, UnsupportedError

# Some 100 bytes describe a tensor.
MAX_PICKLE = 8_000_000
LEGACY_MAGIC = 0x1950A86A20F9469CFC6C
RESAVE = "save the model again as safetensors: model.save_pretrained(directory)"
LOCAL_HEADER = struct.Struct("<4s22xHH")


@dataclass(frozen=True)
class Extent:
    """Where a storage's bytes are."""

    offset: int
    nbytes: int


def read_pickle(path: Path) -> dict[str, TensorInfo]:
    """Index a file, in the order of the dictionary.

    Raises:
        CheckpointError: the file is broken or its pickle wants more than tensors.
        UnsupportedError: a layout that is not read.
    """
    size = file_size(path)
    try:
        with path.open("rb") as file:
            if zipfile.is_zipfile(file):
                file.seek(0)
                return _read_zip(path, size, file)
        return _read_legacy(path, size)
    except OSError as error:
        raise CheckpointError(f"{path}: {reason(error)}") from error
    except zipfile.BadZipFile as error:
        raise CheckpointError(f"{path}: the zip archive is broken: {error}", RESAVE) from error


def _read_zip(path: Path, size: int, file: BinaryIO) -> dict[str, TensorInfo]:
    try:
        with zipfile.ZipFile(file) as archive:
            entries = {entry.filename: entry for entry in archive.infolist()}
            name = next((name for name in entries if name.endswith("/data.pkl")), None)
            if name is None:
                raise CheckpointError(f"{path}: a zip archive, but not one of torch.save", RESAVE)
            root = name.removesuffix("data.pkl")
            extents = {
                entry.filename: _extent(path, size, entry)
                for entry in entries.values()
                if entry.filename.startswith(root)
            }
    except (zipfile.BadZipFile, NotImplementedError, ValueError, struct.error) as error:
        raise CheckpointError(f"{path}: the zip archive is broken: {error}", RESAVE) from error
    order = extents.get(root + "byteorder")
    if order is not None and read_bytes_at(path, order.offset, min(order.nbytes, 16)) != b"little":
        raise UnsupportedError(f"{path} was saved on a big-endian machine", RESAVE)
    pickled = extents[name]
    if pickled.nbytes > MAX_PICKLE:
        raise CheckpointError(f"{path}: data.pkl is too long: {pickled.nbytes} bytes")
    raw = io.BytesIO(read_bytes_at(path, pickled.offset, pickled.nbytes))
    state, _ = unpickle(raw, str(path))
    prefix = root + "data/"
    storages = {key.removeprefix(prefix): e for key, e in extents.items() if key.startswith(prefix)}
    return _tensors(path, state, storages)


def _extent(path: Path, size: int, entry: zipfile.ZipInfo) -> Extent:
    where = f"{path}: zip entry {entry.filename!r:.200}"
    if entry.compress_type != zipfile.ZIP_STORED or entry.flag_bits & 1:
        raise UnsupportedError(f"{where} is compressed or encrypted", RESAVE)
    # The central directory does not say how long the entry's own header is.
    raw = read_bytes_at(path, entry.header_offset, LOCAL_HEADER.size)
    if len(raw) != LOCAL_HEADER.size or not raw.startswith(b"PK\3\4"):
        raise CheckpointError(f"{where} is not where the archive says", RESAVE)
    _, name, extra = LOCAL_HEADER.unpack(raw)
    begin = entry.header_offset + LOCAL_HEADER.size + name + extra
    if entry.file_size != entry.compress_size or begin + entry.file_size > size:
        raise CheckpointError(f"{where} reaches beyond the file's end", RESAVE)
    return Extent(begin, entry.file_size)


def _read_legacy(path: Path, size: int) -> dict[str, TensorInfo]:
    where = str(path)
    file = io.BytesIO(read_bytes_at(path, 0, min(size, MAX_PICKLE)))
    if unpickle(file, where)[0] != LEGACY_MAGIC or unpickle(file, where)[0] != 1001:
        raise CheckpointError(f"{path} is not a file of torch.save", RESAVE)
    system, _ = unpickle(file, where)
    if not isinstance(system, dict) or system.get("little_endian") is not True:
        raise UnsupportedError(f"{path} was saved on a big-endian machine", RESAVE)
    state, found = unpickle(file, where)
    keys, _ = unpickle(file, where)
    if not isinstance(keys, list) or not all(isinstance(key, str) and key in found for key in keys):
        raise CheckpointError(f"{path}: the list of storages is broken", RESAVE)
    extents: dict[str, Extent] = {}
    offset = file.tell()
    for key in keys:
        count = int.from_bytes(read_bytes_at(path, offset, 8), "little")
        nbytes = count * found[key].itemsize
        if count != found[key].elements or offset + 8 + nbytes > size:
            raise CheckpointError(f"{path}: storage {key!r:.40} reaches beyond the file's end")
        extents[key] = Extent(offset + 8, nbytes)
        offset += 8 + nbytes
    return _tensors(path, state, extents)


def _tensors(path: Path, state: Any, extents: Mapping[str, Extent]) -> dict[str, TensorInfo]:
    if not isinstance(state, dict):
        raise CheckpointError(f"{path} holds no dictionary of tensors", RESAVE)
    if found := foreign_state(state):
        raise UnsupportedError(f"{path} holds {found[0]}, which is not read", found[1])
    result = {}
    for name, tensor in state.items():
        if not isinstance(tensor, Tensor) or not isinstance(name, str):
            raise CheckpointError(f"{path}: entry {name!r:.200} is not a tensor", RESAVE)
        result[name] = _tensor(path, name, tensor, extents)
    return result


def _tensor(path: Path, name: str, tensor: Tensor, extents: Mapping[str, Extent]) -> TensorInfo:
    where = f"{path}: tensor {name!r:.200}"
    check_tensor(path, name, tensor.shape)
    extent = extents.get(tensor.storage.key)
    item = PLAIN[tensor.dtype]
    if extent is None:
        raise CheckpointError(f"{where}: its storage {tensor.storage.key!r:.40} is missing", RESAVE)
    shape, strides = tensor.shape, tensor.strides
    elements = prod(shape)
    last = sum((size - 1) * stride for size, stride in zip(shape, strides, strict=True))
    reach = tensor.offset + last + 1 if elements else 0
    # A view that shows elements twice could be far larger than its file.
    if max(reach, elements) * item > extent.nbytes:
        raise CheckpointError(f"{where} reaches beyond its storage", RESAVE)
    usual = _contiguous(shape)
    plain = not elements or all(
        size == 1 or stride == want
        for size, stride, want in zip(shape, strides, usual, strict=True)
    )
    return TensorInfo(
        name,
        shape,
        tensor.dtype,
        path,
        extent.offset + tensor.offset * item if elements else extent.offset,
        elements * item,
        strides=None if plain else strides,
    )


def _contiguous(shape: tuple[int, ...]) -> tuple[int, ...]:
    return tuple(prod(shape[axis + 1 :]) for axis in range(len(shape)))
