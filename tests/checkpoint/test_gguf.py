import json
import struct
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest
from common import finish_gguf
from gguf import GGMLQuantizationType as T
from gguf import GGUFValueType as V
from packages import smollm2_gguf

from qconvert.checkpoint import open_checkpoint, read_bytes, read_rows
from qconvert.checkpoint.metadata import Field
from qconvert.errors import CheckpointError, QconvertError, UnsupportedError

Fill = Callable[[gguf.GGUFWriter], Any]


def write(path: Path, fill: Fill, **options: Any) -> Path:
    writer = gguf.GGUFWriter(path, "llama", **options)
    fill(writer)
    return finish_gguf(writer, path)


def text(value: str | bytes) -> bytes:
    data = value.encode() if isinstance(value, str) else value
    return struct.pack("<Q", len(data)) + data


def pair(key: str | bytes, kind: int, value: bytes) -> bytes:
    return text(key) + struct.pack("<I", kind) + value


def info(name: str | bytes, shape: tuple[int, ...], kind: int, offset: int) -> bytes:
    head = text(name) + struct.pack("<I", len(shape)) + struct.pack(f"<{len(shape)}Q", *shape)
    return head + struct.pack("<IQ", kind, offset)


def file(
    pairs: list[bytes],
    infos: list[bytes],
    data: bytes = b"",
    *,
    version: bytes = b"\3\0\0\0",
    counts: tuple[int, int] | None = None,
    alignment: int = 32,
) -> bytes:
    tensors, keys = counts or (len(infos), len(pairs))
    head = b"GGUF" + version + struct.pack("<QQ", tensors, keys) + b"".join(pairs + infos)
    return head + bytes(-len(head) % alignment) + data


def integer_codes(kind: T, rows: int, blocks: int) -> np.ndarray:
    """Random blocks whose float16 fields are finite, so that values can be compared."""
    _, size = gguf.GGML_QUANT_SIZES[kind]
    raw = np.random.default_rng(int(kind)).integers(0, 256, (rows, blocks * size), np.uint8)
    raw.reshape(-1, 2)[:, 1] &= 0xBB if size % 2 == 0 else 0xFF
    return raw


QUANTIZED = [
    kind
    for kind in T
    if kind.name not in ("F32", "F16", "BF16", "F64", "I8", "I16", "I32", "I64")
    and kind in gguf.quants._type_traits
]


@pytest.mark.parametrize("kind", QUANTIZED, ids=lambda kind: kind.name)
def test_blocks_are_what_the_gguf_package_dequantizes(tmp_path: Path, kind: T) -> None:
    raw = integer_codes(kind, 6, 3)
    path = write(tmp_path / "m.gguf", lambda w: w.add_tensor("t", raw, raw_dtype=kind))
    tensor = open_checkpoint(str(path)).tensors["t"]
    assert (tensor.dtype, tensor.shape) == (kind.name, (6, 3 * gguf.GGML_QUANT_SIZES[kind][0]))
    assert read_bytes(tensor, 1, 5).tobytes() == raw[1:5].tobytes()
    with np.errstate(all="ignore"):
        want = gguf.quants.dequantize(raw, kind)
    rows = read_rows(tensor, 2, 6)
    assert rows.dtype == np.float32
    assert np.array_equal(rows, want[2:6], equal_nan=True)


@pytest.mark.parametrize("dtype", ["f2", "f4", "f8", "i1", "i2", "i4", "i8"])
def test_plain_types_are_what_was_written(tmp_path: Path, dtype: str) -> None:
    want = (np.random.default_rng(0).standard_normal((5, 2, 33)) * 50).astype(dtype)
    path = write(tmp_path / "m.gguf", lambda w: w.add_tensor("t", want))
    tensor = open_checkpoint(str(path)).tensors["t"]
    assert tensor.shape == (5, 2, 33)
    assert tensor.dtype == {"f": "F", "i": "I"}[dtype[0]] + str(int(dtype[1]) * 8)
    flat = want.reshape(10, 33).astype(np.float32)
    assert read_rows(tensor, 3, 9).tobytes() == flat[3:9].tobytes()


def test_metadata_keeps_its_exact_types(tmp_path: Path) -> None:
    def fill(w: gguf.GGUFWriter) -> None:
        w.add_uint8("u8", 255)
        w.add_int8("i8", -128)
        w.add_uint16("u16", 65535)
        w.add_int16("i16", -32768)
        w.add_uint32("u32", 2**32 - 1)
        w.add_int32("i32", -(2**31))
        w.add_uint64("u64", 2**64 - 1)
        w.add_int64("i64", -(2**63))
        w.add_float32("f32", 0.1)
        w.add_float64("f64", 0.1)
        w.add_bool("yes", True)
        w.add_bool("no", False)
        w.add_string("text", "naïve 🦙\n")
        w.add_array("texts", ["a", "", "ß🦙"])
        w.add_array("ints", [1, -2, 3])
        w.add_array("floats", [0.5, -1.25])
        w.add_array("flags", [True, False])

    path = write(tmp_path / "m.gguf", fill)
    got = open_checkpoint(str(path)).metadata
    assert got == {
        "general.architecture": Field(V.STRING, "llama"),
        "u8": Field(V.UINT8, 255),
        "i8": Field(V.INT8, -128),
        "u16": Field(V.UINT16, 65535),
        "i16": Field(V.INT16, -32768),
        "u32": Field(V.UINT32, 2**32 - 1),
        "i32": Field(V.INT32, -(2**31)),
        "u64": Field(V.UINT64, 2**64 - 1),
        "i64": Field(V.INT64, -(2**63)),
        "f32": Field(V.FLOAT32, float(np.float32(0.1))),
        "f64": Field(V.FLOAT64, 0.1),
        "yes": Field(V.BOOL, True),
        "no": Field(V.BOOL, False),
        "text": Field(V.STRING, "naïve 🦙\n"),
        "texts": Field(V.ARRAY, ["a", "", "ß🦙"], V.STRING),
        "ints": Field(V.ARRAY, [1, -2, 3], V.INT32),
        "floats": Field(V.ARRAY, [0.5, -1.25], V.FLOAT32),
        "flags": Field(V.ARRAY, [True, False], V.BOOL),
    }
    assert [type(got[key].value) for key in ("u8", "f32", "yes", "text")] == [int, float, bool, str]


def test_a_real_models_header_is_what_the_gguf_package_reads() -> None:
    path = smollm2_gguf()
    opened = open_checkpoint(str(path))
    reader = gguf.GGUFReader(path)
    names = [key for key in reader.fields if not key.startswith("GGUF.")]
    assert list(opened.metadata) == names
    for key in names:
        assert opened.metadata[key].value == reader.fields[key].contents(), key
    assert (opened.container, opened.source) == ("gguf", path.name)
    for theirs in reader.tensors:
        ours = opened.tensors[theirs.name]
        assert ours.shape == tuple(reversed(theirs.shape.tolist()))
        assert (ours.dtype, ours.offset) == (theirs.tensor_type.name, theirs.data_offset)
    theirs = next(t for t in reader.tensors if t.name == "blk.3.ffn_down.weight")
    ours = opened.tensors[theirs.name]
    want = gguf.quants.dequantize(theirs.data, theirs.tensor_type)
    assert np.array_equal(read_rows(ours, 0, ours.rows), want)


def test_a_large_vocabulary_is_read_fast(tmp_path: Path) -> None:
    count = 150_000
    tokens = [f"token{i}ß" for i in range(count)]
    scores, kinds = [float(i) for i in range(count)], list(range(count))

    def fill(w: gguf.GGUFWriter) -> None:
        w.add_token_list(tokens)
        w.add_token_merges([f"a{i} b{i}" for i in range(count)])
        w.add_token_scores(scores)
        w.add_token_types(kinds)

    path = write(tmp_path / "m.gguf", fill)
    times = []
    for _ in range(3):
        start = time.perf_counter()
        got = open_checkpoint(str(path)).metadata
        times.append(time.perf_counter() - start)
    assert got["tokenizer.ggml.tokens"].value == tokens
    assert got["tokenizer.ggml.scores"].value == scores
    assert got["tokenizer.ggml.token_type"].value == kinds
    assert min(times) < 0.3


def test_a_header_longer_than_the_first_read_is_read_whole(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from qconvert.checkpoint import gguf as module

    def fill(w: gguf.GGUFWriter) -> None:
        w.add_array("texts", [f"token {i}" for i in range(2000)])
        w.add_array("floats", [0.5] * 1000)
        w.add_tensor("t", np.arange(12, dtype=np.float32).reshape(3, 4))

    path = write(tmp_path / "m.gguf", fill)
    want = open_checkpoint(str(path))
    for first in (1, 24, 100, 20_000, 30_000):
        monkeypatch.setattr(module, "FIRST_READ", first)
        assert open_checkpoint(str(path)) == want


def test_arrays_of_arrays_are_kept_and_their_depth_is_bounded(tmp_path: Path) -> None:
    row = struct.pack("<IQ", V.INT32, 2) + struct.pack("<ii", 4, 5)
    nested = struct.pack("<IQ", V.ARRAY, 2) + row + row
    path = tmp_path / "m.gguf"
    path.write_bytes(file([pair("rows", V.ARRAY, nested)], []))
    inner = Field(V.ARRAY, [4, 5], V.INT32)
    assert open_checkpoint(str(path)).metadata["rows"] == Field(V.ARRAY, [inner, inner], V.ARRAY)
    deep = struct.pack("<IQ", V.ARRAY, 1) * 10_000 + row
    path.write_bytes(file([pair("rows", V.ARRAY, deep)], []))
    with pytest.raises(CheckpointError, match="nested too deeply"):
        open_checkpoint(str(path))


@pytest.mark.parametrize("alignment", [1, 8, 32, 64, 4096])
def test_data_begins_at_the_alignment(tmp_path: Path, alignment: int) -> None:
    align = pair("general.alignment", V.UINT32, struct.pack("<I", alignment))
    data = np.arange(8, dtype="<f4").tobytes()
    path = tmp_path / "m.gguf"
    path.write_bytes(file([align], [info("t", (8,), T.F32, 0)], data, alignment=alignment))
    tensor = open_checkpoint(str(path)).tensors["t"]
    assert read_rows(tensor, 0, 1).tolist() == [list(range(8))]


def test_version_2_is_read_as_version_3(tmp_path: Path) -> None:
    path = tmp_path / "m.gguf"
    path.write_bytes(file([], [info("t", (8,), T.F32, 0)], bytes(32), version=b"\2\0\0\0"))
    assert open_checkpoint(str(path)).tensors["t"].shape == (8,)


def u32(key: str, value: int, kind: int = V.UINT32) -> bytes:
    return pair(key, kind, struct.pack("<I", value))


F32 = info("t", (8,), T.F32, 0)
GOOD = bytes(32)


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (b"GGUF", "left"),
        (b"GGUF\3\0\0\0", "left"),
        (file([], [], version=b"\1\0\0\0"), "version 1"),
        (file([], [], version=b"\4\0\0\0"), "version 4"),
        (file([], [], version=b"\0\0\0\3"), "big-endian"),
        (file([], [], counts=(1 << 60, 0)), "do not fit a file"),
        (file([], [], counts=(0, 1 << 60)), "do not fit a file"),
        (file([], [], counts=(0, (1 << 64) - 1)), "do not fit a file"),
        (file([], [], counts=(0, 1)), "do not fit a file"),
        (file([struct.pack("<Q", 1 << 62) + bytes(30)], []), "string of"),
        (file([pair("a", 99, b"")], []), "type that is not known: 99"),
        (file([pair("a", V.BOOL, b"\2")], []), "bool"),
        (file([pair("a", V.STRING, text(b"\xff"))], []), "not UTF-8"),
        (file([pair(b"\xff", V.BOOL, b"\1")], []), "not UTF-8"),
        (file([pair("a", V.STRING, struct.pack("<Q", 1 << 63))], []), "string of"),
        (file([pair("", V.BOOL, b"\1")], []), "is no key, or appears twice"),
        (file([u32("a", 1), u32("a", 2)], []), "is no key, or appears twice"),
        (file([pair("a", V.ARRAY, struct.pack("<IQ", 99, 0))], []), "array of a type"),
        (file([pair("a", V.ARRAY, struct.pack("<IQ", V.STRING, 1 << 61))], []), "array of"),
        (file([pair("a", V.ARRAY, struct.pack("<IQ", V.ARRAY, 1 << 61))], []), "array of"),
        (file([pair("a", V.ARRAY, struct.pack("<IQ", V.UINT8, 1 << 61))], []), "left"),
        (file([pair("a", V.ARRAY, struct.pack("<IQ", V.FLOAT64, 1 << 61))], []), "left"),
        (
            file([pair("a", V.ARRAY, struct.pack("<IQ", V.STRING, 1) + text(b"\xff"))], []),
            "not UTF-8",
        ),
        (file([u32("general.alignment", 0)], [F32], GOOD), "alignment"),
        (file([u32("general.alignment", 3)], [F32], GOOD), "alignment"),
        (file([u32("general.alignment", 1 << 31)], [F32], GOOD), "alignment"),
        (file([u32("general.alignment", 32, V.INT32)], [F32], GOOD), "alignment"),
        (file([], [info("", (8,), T.F32, 0)], GOOD), "no name for a tensor"),
        (file([], [info("t\x1b[2J", (8,), T.F32, 0)], GOOD), "no name for a tensor"),
        (file([], [info("t", (0, 1 << 40), T.F32, 0)], GOOD), "impossible shape"),
        (file([], [info("x" * 65, (8,), T.F32, 0)], GOOD), "string of 65"),
        (file([], [info(b"\xff", (8,), T.F32, 0)], GOOD), "not UTF-8"),
        (file([], [info("t", (8, 1, 1, 1, 1), T.F32, 0)], GOOD), "5 dimensions"),
        (file([], [info("t", (1 << 40, 1 << 40), T.F32, 0)], GOOD), "ends at byte"),
        (file([], [info("t", (8,), T.F32, 1 << 63)], GOOD), "ends at byte"),
        (file([], [info("t", (8,), T.F32, 8)], bytes(64)), "not aligned"),
        (file([], [info("t", (8,), T.F32, 32)], GOOD), "ends at byte"),
        (file([], [F32], GOOD[:-1]), "ends at byte"),
        (file([], [info("t", (16,), T.Q4_K, 0)], bytes(256)), "no multiple of Q4_K's block"),
        (file([], [F32, F32], GOOD * 2), "appears twice"),
        (file([], [F32, info("u", (8,), T.F32, 0)], GOOD), "overlaps"),
        (file([], [info("u", (16,), T.F32, 0), info("t", (8,), T.F32, 32)], GOOD * 2), "overlaps"),
    ],
)
def test_a_header_that_cannot_be_trusted_is_refused(
    tmp_path: Path, data: bytes, words: str
) -> None:
    path = tmp_path / "m.gguf"
    path.write_bytes(data)
    with pytest.raises(QconvertError) as caught:
        open_checkpoint(str(path))
    assert words in caught.value.message
    assert "\n" not in caught.value.message


def test_types_that_are_not_known_are_named(tmp_path: Path) -> None:
    path = tmp_path / "m.gguf"
    path.write_bytes(file([], [info("t", (8,), 4, 0)], GOOD))
    with pytest.raises(UnsupportedError, match="'t' has a type that is not known: 4"):
        open_checkpoint(str(path))
    path.write_bytes(b"not a model")
    with pytest.raises(CheckpointError, match="not a GGUF file"):
        open_checkpoint(str(path))


def test_a_file_cut_anywhere_is_refused(tmp_path: Path) -> None:
    def fill(w: gguf.GGUFWriter) -> None:
        w.add_array("texts", ["a", "b"])
        w.add_tensor("t", np.ones((2, 32), np.float32))

    path = write(tmp_path / "m.gguf", fill)
    whole = path.read_bytes()
    for length in range(len(whole)):
        path.write_bytes(whole[:length])
        with pytest.raises(QconvertError):
            open_checkpoint(str(path))


def split(tmp_path: Path) -> list[Path]:
    def fill(w: gguf.GGUFWriter) -> None:
        w.add_uint32("llama.block_count", 3)
        for i in range(5):
            w.add_tensor(f"t{i}", np.full((2, 32), i, np.float32))

    write(tmp_path / "m.gguf", fill, split_max_tensors=2)
    return sorted(tmp_path.glob("m-*.gguf"))


def test_shards_are_one_checkpoint(tmp_path: Path) -> None:
    paths = split(tmp_path)
    assert len(paths) == 3
    opened = open_checkpoint(str(paths[0]))
    assert list(opened.tensors) == [f"t{i}" for i in range(5)]
    assert list(opened.metadata) == ["general.architecture", "llama.block_count"]
    assert opened.files == tuple(paths)
    assert read_rows(opened.tensors["t4"], 1, 2).tolist() == [[4.0] * 32]


def test_shards_that_do_not_belong_together_are_refused(tmp_path: Path) -> None:
    paths = split(tmp_path)

    def refused(path: Path) -> str:
        with pytest.raises(CheckpointError) as caught:
            open_checkpoint(str(path))
        return f"{caught.value.message} | {caught.value.hint}"

    assert str(paths[0]) in refused(paths[1])
    last = paths[2].read_bytes()
    paths[2].write_bytes(paths[1].read_bytes())
    assert "does not belong" in refused(paths[0])
    paths[2].unlink()
    assert f"1 of 3 shards missing: {paths[2].name}" in refused(paths[0])
    paths[2].write_bytes(last)
    assert "its name does not say which" in refused(paths[0].rename(tmp_path / "renamed.gguf"))


def test_a_split_count_that_no_shards_bear_out_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "m-00001-of-65535.gguf"
    count = pair("split.count", V.UINT64, struct.pack("<Q", 65535))
    path.write_bytes(file([count], [F32], GOOD))
    with pytest.raises(CheckpointError, match="65534 of 65535 shards missing"):
        open_checkpoint(str(path))
    count = pair("split.count", V.UINT64, struct.pack("<Q", 1 << 63))
    path.write_bytes(file([count], [F32], GOOD))
    with pytest.raises(CheckpointError, match="its name does not say which"):
        open_checkpoint(str(path))


def test_the_metadata_has_room_in_json(tmp_path: Path) -> None:
    path = write(tmp_path / "m.gguf", lambda w: w.add_array("a", [1, 2]))
    plain = {key: field.value for key, field in open_checkpoint(str(path)).metadata.items()}
    assert json.loads(json.dumps(plain)) == {"general.architecture": "llama", "a": [1, 2]}
