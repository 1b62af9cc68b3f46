import json
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save

from qconvert.checkpoint import open_checkpoint, read_bytes, read_rows
from qconvert.errors import CheckpointError, QconvertError, UnsupportedError

Make = Callable[..., Path]
DTYPES = {
    "F64": torch.float64,
    "F32": torch.float32,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "F8_E4M3": torch.float8_e4m3fn,
    "F8_E5M2": torch.float8_e5m2,
    "F8_E8M0": torch.float8_e8m0fnu,
    "I64": torch.int64,
    "I32": torch.int32,
    "I16": torch.int16,
    "I8": torch.int8,
    "U64": torch.uint64,
    "U32": torch.uint32,
    "U16": torch.uint16,
    "U8": torch.uint8,
    "BOOL": torch.bool,
}


def blob(header: Any, data: bytes = b"", length: int | None = None) -> bytes:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(text) if length is None else length) + text + data


def entry(dtype: Any = "F32", shape: Any = (2,), offsets: Any = (0, 8)) -> dict[str, Any]:
    return {"dtype": dtype, "shape": shape, "data_offsets": offsets}


@pytest.mark.parametrize("dtype", DTYPES)
def test_rows_of_every_dtype_are_what_torch_reads(make_directory: Make, dtype: str) -> None:
    kind = DTYPES[dtype]
    size = kind.itemsize
    bits = torch.randint(0, 256, (13, 96 * size), dtype=torch.uint8)
    if kind == torch.bool:
        bits &= 1
    elif size == 1:
        # Each of the 256 codes at least once.
        bits.view(-1)[:256] = torch.arange(256, dtype=torch.uint8)
    path = make_directory({"model.safetensors": save({"w": bits.view(kind)})})
    want = load_file(path / "model.safetensors")["w"].to(torch.float32).numpy()
    tensor = open_checkpoint(str(path)).tensors["w"]
    assert (tensor.dtype, tensor.shape) == (dtype, (13, 96))
    for start, stop in [(0, 13), (0, 0), (5, 6), (12, 13), (3, 11)]:
        rows = read_rows(tensor, start, stop)
        assert rows.flags.c_contiguous
        assert rows.flags.writeable
        # NaNs keep their place; which of their payloads survives a conversion is the processor's.
        assert ((rows == want[start:stop]) | ((rows != rows) & (want != want)[start:stop])).all()
        assert read_bytes(tensor, start, stop).tobytes() == bits[start:stop].numpy().tobytes()


@pytest.mark.parametrize("shape", [(), (5,), (1, 1), (3, 2, 4), (0,), (3, 0), (0, 4), (2, 3, 1, 5)])
def test_every_shape_reads_as_rows_of_its_last_dimension(make_directory: Make, shape: Any) -> None:
    want = torch.randn(shape)
    path = make_directory({"model.safetensors": save({"w": want, "after": torch.ones(3)})})
    tensor = open_checkpoint(str(path)).tensors["w"]
    assert (tensor.shape, tensor.elements) == (shape, want.numel())
    rows = read_rows(tensor, 0, tensor.rows)
    assert rows.shape == (tensor.rows, tensor.columns)
    assert rows.tobytes() == want.numpy().tobytes()


def test_metadata_and_padding_of_the_header_are_accepted(make_directory: Make) -> None:
    header = json.dumps({"__metadata__": {"format": "pt"}, "w": entry()}).encode() + b"   "
    path = make_directory({"model.safetensors": blob(header, bytes(8))})
    assert list(open_checkpoint(str(path)).tensors) == ["w"]


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (b"", "too short"),
        (b"\1\0\0", "too short"),
        (blob({}, length=1 << 63), "more than the file holds"),
        (blob({}, length=3), "more than the file holds"),
        (blob(b"[]"), "not a JSON object"),
        (blob(b"{"), "not valid JSON"),
        (blob(b"\xff\xfe"), "not a JSON object"),
        (blob(b'{"a\xff": 1}'), "not valid JSON"),
        (blob(b'{"w": ' + b"[" * 100_000), "nested too deeply"),
        (blob(b'{"w": 1, "w": 2}'), "appears twice"),
        (blob(b'{"\\ud800": 1}'), "not valid JSON"),
        (blob({"w": 3}), "does not have just"),
        (blob({"w": {"dtype": "F32", "shape": [2]}}), "does not have just"),
        (blob({"w": {**entry(), "more": 1}}, bytes(8)), "does not have just"),
        (blob({"w": entry("F31")}, bytes(8)), "'F31'"),
        (blob({"w": entry(["F32"])}, bytes(8)), "dtype"),
        (blob({"w": entry(shape=[-2])}, bytes(8)), "impossible shape"),
        (blob({"w": entry(shape=[2.0])}, bytes(8)), "impossible shape"),
        (blob({"w": entry(shape=[True, 2])}, bytes(8)), "impossible shape"),
        (blob({"w": entry(shape=[1 << 70])}, bytes(8)), "impossible shape"),
        (blob({"w": entry(shape=[1] * 1000 + [2])}, bytes(8)), "impossible shape"),
        (blob({"w": entry(shape={})}, bytes(8)), "impossible shape"),
        (blob({"w": entry(offsets=[8, 0])}, bytes(8)), "impossible data_offsets"),
        (blob({"w": entry(offsets=[0, 8, 9])}, bytes(8)), "impossible data_offsets"),
        (blob({"w": entry(offsets=["0", "8"])}, bytes(8)), "impossible data_offsets"),
        (blob({"w": entry(offsets=[0, 12])}, bytes(12)), "does not fill"),
        (blob({"w": entry(shape=[1 << 62, 1 << 62])}, bytes(8)), "does not fill"),
        (blob({"w": entry()}, bytes(7)), "ends at byte"),
        (blob({"w": entry()}, bytes(9)), "1 bytes behind"),
        (blob({"w": entry(offsets=[4, 12])}, bytes(12)), "follows a gap"),
        (blob({"w": entry(), "v": entry(offsets=[4, 12])}, bytes(12)), "overlaps"),
        (blob({"w": entry(), "v": entry()}, bytes(8)), "overlaps"),
        (blob({"__metadata__": {"a": 1}, "w": entry()}, bytes(8)), "__metadata__"),
        (blob({"__metadata__": []}), "__metadata__"),
        (blob({"": entry()}, bytes(8)), "no name for a tensor"),
        (blob({"w\n": entry()}, bytes(8)), "no name for a tensor"),
        (blob({"w": entry(shape=[0, 1 << 40], offsets=[0, 0])}), "impossible shape"),
        (blob({}), "no tensors"),
    ],
)
def test_a_header_that_cannot_be_trusted_is_refused(
    make_directory: Make, data: bytes, words: str
) -> None:
    path = make_directory({"model.safetensors": data})
    with pytest.raises(CheckpointError) as caught:
        open_checkpoint(str(path))
    assert words in caught.value.message
    assert "\n" not in caught.value.message
    assert len(caught.value.message) < 600


def test_a_dtype_that_no_weight_has_is_unsupported(make_directory: Make) -> None:
    path = make_directory({"model.safetensors": blob({"w": entry("C64", [1])}, bytes(8))})
    with pytest.raises(UnsupportedError, match="C64"):
        open_checkpoint(str(path))


def test_a_header_longer_than_the_reference_allows_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "model"
    path.mkdir()
    (path / "config.json").write_text('{"architectures": ["X"]}')
    with (path / "model.safetensors").open("wb") as file:
        file.write(struct.pack("<Q", 100_000_001))
        file.truncate(200_000_000)
    with pytest.raises(CheckpointError, match="too long"):
        open_checkpoint(str(path))


def test_a_file_cut_anywhere_is_refused(make_directory: Make) -> None:
    whole = save({"a": torch.ones(3, 4), "b": torch.ones(2)})
    for length in range(len(whole)):
        path = make_directory({"model.safetensors": whole[:length]})
        with pytest.raises(QconvertError):
            open_checkpoint(str(path))
