"""safetensors files: names, shapes, dtypes and byte ranges from the header.

    | u64 n | n bytes of JSON: {name: {dtype, shape, data_offsets}} | data |

Source: the format's description in the safetensors repository. As there, a header is at most
100 MB and the data is covered by the tensors without gaps or overlaps.
"""

from math import prod
from pathlib import Path
from typing import Any

from qconvert.checkpoint.dtypes import PLAIN
from qconvert.checkpoint.files import check_tensor, file_size, parse_json, read_bytes_at
from qconvert.checkpoint.types import TensorInfo
from qconvert.errors import CheckpointError, UnsupportedError

ENTRY = {"dtype", "shape", "data_offsets"}
"""What a header says of a tensor."""

MAX_HEADER = 100_000_000
MAX_DIMENSIONS = 32
# Types that safetensors knows and no weight of a language model comes in.
FOREIGN = ("F4", "F6_E2M3", "F6_E3M2", "F8_E4M3FNUZ", "F8_E5M2FNUZ", "C64")
TRUNCATED = "the file may be truncated: download or copy it again"


def read_safetensors(path: Path) -> dict[str, TensorInfo]:
    """Index a file, in the order of its bytes.

    Raises:
        CheckpointError: the header contradicts itself or the file.
        UnsupportedError: a dtype that is not read here.
    """
    header, data, size = _read_header(path)
    _check_metadata(path, header.pop("__metadata__", {}))
    tensors = [_tensor(path, name, entry, data) for name, entry in header.items()]
    tensors.sort(key=lambda tensor: (tensor.offset, tensor.nbytes))
    _check_cover(path, tensors, data, size)
    return {tensor.name: tensor for tensor in tensors}


def read_metadata(path: Path) -> dict[str, str]:
    """What the header says beside the tensors.

    Raises:
        CheckpointError: the header cannot be read.
    """
    metadata = _read_header(path)[0].get("__metadata__", {})
    _check_metadata(path, metadata)
    return dict(metadata)


def _read_header(path: Path) -> tuple[dict[str, Any], int, int]:
    """The header, where the data begins, and the size of the file."""
    size = file_size(path)
    if size < 8:
        raise CheckpointError(f"{path}: too short for a safetensors file ({size} bytes)", TRUNCATED)
    length = int.from_bytes(read_bytes_at(path, 0, 8), "little")
    if length > size - 8:
        raise CheckpointError(
            f"{path}: the header's length ({length}) is more than the file holds ({size - 8})",
            TRUNCATED,
        )
    if length > MAX_HEADER:
        raise CheckpointError(f"{path}: the header is too long: {length} bytes")
    text = read_bytes_at(path, 8, length)
    if len(text) != length or not text.startswith(b"{"):
        raise CheckpointError(f"{path}: the header is not a JSON object")
    return parse_json(text, f"{path}: header"), 8 + length, size


def _check_metadata(path: Path, metadata: Any) -> None:
    if not isinstance(metadata, dict) or not all(isinstance(v, str) for v in metadata.values()):
        raise CheckpointError(f"{path}: __metadata__ is not a map of strings")


def _tensor(path: Path, name: str, entry: Any, data: int) -> TensorInfo:
    if not isinstance(entry, dict) or entry.keys() != ENTRY:
        raise CheckpointError(
            f"{_where(path, name)} does not have just a dtype, a shape and data_offsets"
        )
    dtype, shape, offsets = entry["dtype"], entry["shape"], entry["data_offsets"]
    if not isinstance(dtype, str) or dtype not in PLAIN:
        error = UnsupportedError if dtype in FOREIGN else CheckpointError
        raise error(f"{_where(path, name)} has a dtype that is not known: {dtype!r:.40}")
    if not _naturals(shape) or len(shape) > MAX_DIMENSIONS:
        raise CheckpointError(f"{_where(path, name)} has an impossible shape: {shape!r:.80}")
    if not _naturals(offsets) or len(offsets) != 2 or offsets[0] > offsets[1]:
        raise CheckpointError(f"{_where(path, name)} has impossible data_offsets: {offsets!r:.80}")
    begin, end = offsets
    if prod(shape) * PLAIN[dtype] != end - begin:
        raise CheckpointError(
            f"{_where(path, name)}: shape {shape!r:.80} of {dtype} does not fill its "
            f"{end - begin} bytes"
        )
    check_tensor(path, name, shape)
    return TensorInfo(name, tuple(shape), dtype, path, data + begin, end - begin)


def _where(path: Path, name: str) -> str:
    return f"{path}: tensor {name!r:.200}"


def _naturals(values: Any) -> bool:
    # bool is an int to isinstance, and sizes that no file has would overflow further on.
    if not isinstance(values, list) or not set(map(type, values)) <= {int}:
        return False
    return not values or (min(values) >= 0 and max(values) < 1 << 63)


def _check_cover(path: Path, tensors: list[TensorInfo], data: int, size: int) -> None:
    reached = data
    for tensor in tensors:
        end = tensor.offset + tensor.nbytes
        if end > size:
            raise CheckpointError(
                f"{path}: tensor {tensor.name!r:.200} ends at byte {end}, the file at {size}",
                TRUNCATED,
            )
        if tensor.offset != reached:
            what = "overlaps the one before it" if tensor.offset < reached else "follows a gap"
            raise CheckpointError(f"{path}: tensor {tensor.name!r:.200} {what}")
        reached = end
    if reached != size:
        raise CheckpointError(f"{path}: {size - reached} bytes behind the last tensor")
