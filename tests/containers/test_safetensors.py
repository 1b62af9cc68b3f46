"""Files that the safetensors library reads."""

import json
from pathlib import Path

from safetensors import safe_open

from qconvert.containers.safetensors import index_json, lay_out
from qconvert.containers.target import Slot

SLOTS = (
    Slot("b.half", (3, 5), "F16", 30),
    Slot("a.wide", (7,), "F32", 28),
    Slot("c.brain", (1, 2, 3), "BF16", 12),
    Slot("ä", (2,), "F32", 8),
)


def write(shard, path: Path) -> dict[str, bytes]:
    """Each slot filled with bytes of its own."""
    data = {slot.name: bytes([number + 1]) * slot.nbytes for number, slot in enumerate(shard.slots)}
    shard.path.write_bytes(shard.header() + b"".join(data.values()))
    return data


def test_one_file_is_read_by_the_library(tmp_path):
    (shard,) = lay_out(tmp_path, SLOTS, {"format": "pt", "who": "me"}, 1000)
    data = write(shard, tmp_path)
    assert shard.path.name == "model.safetensors"
    assert shard.path.stat().st_size == shard.nbytes
    with safe_open(shard.path, "np") as file:
        assert file.metadata() == {"format": "pt", "who": "me"}
        assert set(file.keys()) == {slot.name for slot in SLOTS}
        assert file.get_tensor("a.wide").tobytes() == data["a.wide"]
        assert file.get_tensor("b.half").shape == (3, 5)


def test_every_tensor_is_aligned_to_its_element(tmp_path):
    (shard,) = lay_out(tmp_path, SLOTS, {}, 1000)
    write(shard, tmp_path)
    header = json.loads(shard.header()[8:])
    assert len(shard.header()) % 8 == 0
    for name, entry in header.items():
        if name != "__metadata__":
            size = {"F32": 4}.get(entry["dtype"], 2)
            assert (len(shard.header()) + entry["data_offsets"][0]) % size == 0


def test_shards_are_filled_up_to_the_limit_in_order(tmp_path):
    shards = lay_out(tmp_path, SLOTS, {}, 58)
    assert [shard.path.name for shard in shards] == [
        "model-00001-of-00002.safetensors",
        "model-00002-of-00002.safetensors",
    ]
    assert [{slot.name for slot in shard.slots} for shard in shards] == [
        {"a.wide", "b.half"},
        {"c.brain", "ä"},
    ]
    index = json.loads(index_json(shards))
    assert index["metadata"]["total_size"] == 78
    assert index["weight_map"]["ä"] == "model-00002-of-00002.safetensors"


def test_a_tensor_above_the_limit_gets_a_shard_of_its_own(tmp_path):
    assert len(lay_out(tmp_path, SLOTS, {}, 1)) == len(SLOTS)
