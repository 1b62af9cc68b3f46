"""Importance matrices as llama-imatrix writes them."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from struct import pack

import gguf
import numpy as np


def write_imatrix(
    path: Path,
    sums: Mapping[str, np.ndarray],
    counts: Mapping[str, Sequence[float]],
    kind: str = "imatrix",
    datasets: Sequence[str] = ("a.txt", "b.txt"),
) -> Path:
    """The GGUF form: sums [matrices, columns], counts [matrices, 1]; ggml drops outer dimensions
    of one."""
    writer = gguf.GGUFWriter(path, "unused")
    del writer.kv_data[0]["general.architecture"]
    writer.add_string("general.type", kind)
    writer.add_array("imatrix.datasets", list(datasets))
    writer.add_uint32("imatrix.chunk_count", 12)
    writer.add_uint32("imatrix.chunk_size", 512)
    for name, array in sums.items():
        writer.add_tensor(f"{name}.in_sum2", array if len(array) > 1 else array[0])
    for name, numbers in counts.items():
        array = np.array(numbers, np.float32).reshape(-1, 1)
        writer.add_tensor(f"{name}.counts", array if len(array) > 1 else array[0])
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def string(value: bytes) -> bytes:
    return pack("<i", len(value)) + value


def dat_entry(name: str, means: np.ndarray, calls: int) -> bytes:
    """An entry of the older form; means of all matrices, end to end."""
    values = (means.reshape(-1) * np.float32(calls or 1)).astype("<f4")
    return string(name.encode()) + pack("<ii", calls, values.size) + values.tobytes()


def dat_bytes(entries: Sequence[bytes], trailer: bytes | None = None) -> bytes:
    """The older form. trailer: what stands behind the entries; by default 12 chunks of a.txt."""
    if trailer is None:
        trailer = pack("<i", 12) + string(b"a.txt")
    return pack("<i", len(entries)) + b"".join(entries) + trailer
