"""The header's size is known beforehand, and the shards are llama.cpp's."""

from pathlib import Path

import numpy as np
from gguf import GGUFReader, GGUFValueType, GGUFWriter
from hypothesis import given, settings
from hypothesis import strategies as st

from qconvert.checkpoint.metadata import Field, f32, f32s, flag, flags, i32s, text, texts, u32, u64
from qconvert.containers.gguf import ALIGNMENT, GgufFiles, file_size, header_bytes, pairs_bytes
from qconvert.containers.target import Slot

FIELDS = st.one_of(
    st.integers(0, 2**32 - 1).map(u32),
    st.integers(0, 2**64 - 1).map(u64),
    st.floats(width=32, allow_nan=False, allow_infinity=False).map(f32),
    st.booleans().map(flag),
    st.text(max_size=20).map(text),
    st.lists(st.text(max_size=8), max_size=5).map(texts),
    st.lists(st.integers(-(2**31), 2**31 - 1), max_size=5).map(i32s),
    st.lists(st.floats(width=32, allow_nan=False), max_size=5).map(f32s),
    st.lists(st.booleans(), max_size=3).map(flags),
    st.integers(0, 2**16 - 1).map(lambda value: Field(GGUFValueType.UINT16, value)),
)
METADATA = st.dictionaries(st.text("abc._", min_size=1, max_size=12), FIELDS, max_size=6)
SHAPES = st.lists(st.integers(1, 5), min_size=1, max_size=4).map(tuple)


def f32_slot(name: str, shape: tuple[int, ...]) -> Slot:
    return Slot(name, shape, "F32", 4 * int(np.prod(shape)), ALIGNMENT)


@settings(max_examples=200)
@given(METADATA, st.lists(SHAPES, max_size=5))
def test_the_size_of_the_header_is_known_without_making_it(metadata, shapes):
    slots = [f32_slot(f"t{number}", shape) for number, shape in enumerate(shapes)]
    tensors = sum(slot.padded for slot in slots)
    size = file_size(len(pairs_bytes(metadata)), slots)
    assert len(header_bytes(metadata, slots)) + tensors == size


@settings(max_examples=200)
@given(METADATA, st.lists(SHAPES, max_size=5))
def test_the_header_is_that_of_the_gguf_package(tmp_path_factory, metadata, shapes):
    slots = [f32_slot(f"t{number}", shape) for number, shape in enumerate(shapes)]
    path = tmp_path_factory.mktemp("header") / "theirs.gguf"
    writer = GGUFWriter(path, "")
    for values in writer.kv_data:
        values.clear()
    for key, field in metadata.items():
        if field.value != []:  # which their writer refuses
            writer.add_key_value(key, field.value, field.type, field.item)
    for slot in slots:
        writer.add_tensor_info(slot.name, slot.shape, np.dtype(np.float32), slot.nbytes)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_ti_data_to_file()
    writer.close()
    theirs = path.read_bytes()
    assert header_bytes(metadata, slots).rstrip(b"\0") == theirs.rstrip(b"\0")


def write(path: Path, metadata, slots, arrays) -> None:
    with path.open("wb") as file:
        file.write(header_bytes(metadata, slots))
        for slot, array in zip(slots, arrays, strict=True):
            file.write(array.tobytes().ljust(slot.padded, b"\0"))


def test_the_gguf_package_reads_what_is_written(tmp_path):
    arrays = [np.arange(6, dtype=np.float32).reshape(2, 3), np.ones(5, np.float32)]
    slots = [f32_slot("a.weight", (2, 3)), f32_slot("b", (5,))]
    metadata = {
        "general.architecture": text("llama"),
        "n": u32(7),
        "names": texts(["a", "", "ü"]),
        "nothing": texts([]),
    }
    write(tmp_path / "x.gguf", metadata, slots, arrays)
    reader = GGUFReader(tmp_path / "x.gguf")
    assert reader.get_field("n").contents() == 7
    assert reader.get_field("names").contents() == ["a", "", "ü"]
    assert reader.get_field("nothing") is None
    for tensor, array in zip(reader.tensors, arrays, strict=True):
        np.testing.assert_array_equal(tensor.data, array)


def test_shards_hold_at_most_the_size_and_only_the_first_has_the_metadata(tmp_path):
    slots = [f32_slot(f"t{number}", (100,)) for number in range(7)]
    metadata = {"general.architecture": text("llama")}
    shards = GgufFiles(tmp_path / "model.gguf", metadata, slots, 3 * slots[0].padded).weight_files
    assert [shard.path.name for shard in shards] == [
        "model-00001-of-00003.gguf",
        "model-00002-of-00003.gguf",
        "model-00003-of-00003.gguf",
    ]
    assert [len(shard.slots) for shard in shards] == [3, 3, 1]
    assert ["general.architecture" in shard.metadata for shard in shards] == [True, False, False]
    assert {shard.metadata["split.count"].value for shard in shards} == {3}
    assert {shard.metadata["split.tensors.count"].value for shard in shards} == {7}


def test_a_tensor_larger_than_a_shard_gets_one_of_its_own(tmp_path):
    slots = [f32_slot("small", (4,)), f32_slot("large", (4000,)), f32_slot("other", (4,))]
    shards = GgufFiles(tmp_path / "m.gguf", {}, slots, 1000).weight_files
    assert [[slot.name for slot in shard.slots] for shard in shards] == [
        ["small"],
        ["large"],
        ["other"],
    ]
