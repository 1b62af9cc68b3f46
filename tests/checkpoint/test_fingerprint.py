import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from gguf import GGUFWriter
from safetensors.torch import save

from qconvert.checkpoint import fingerprint, open_checkpoint

Make = Callable[..., Path]


def tensors() -> dict[str, torch.Tensor]:
    torch.manual_seed(0)
    return {f"w{i}": torch.randn(64, 64 + i) for i in range(6)}


def sharded(state: dict[str, torch.Tensor], count: int) -> dict[str, Any]:
    names = list(state)
    files: dict[str, Any] = {}
    weight_map = {}
    for shard in range(count):
        name = f"part-{shard}-of-{count}.safetensors"
        files[name] = save({key: state[key] for key in names[shard::count]})
        weight_map |= dict.fromkeys(names[shard::count], name)
    return {**files, "model.safetensors.index.json": {"weight_map": weight_map}}


def test_shards_names_and_places_make_no_difference(make_directory: Make) -> None:
    state = tensors()
    ways = [{"model.safetensors": save(state)}, sharded(state, 2), sharded(state, 6)]
    found = {
        fingerprint(open_checkpoint(str(make_directory(files, f"place{i}"))))
        for i, files in enumerate(ways)
    }
    assert len(found) == 1
    assert len(found.pop()) == 64


def test_the_order_of_a_config_makes_no_difference_and_its_content_does(
    make_directory: Make,
) -> None:
    data = save(tensors())
    one = '{"architectures": ["X"], "a": 1.5}'
    other = '{ "a": 1.5, "architectures": ["X"] }'
    third = '{"architectures": ["X"], "a": 2.5}'
    got = [
        fingerprint(
            open_checkpoint(
                str(make_directory({"config.json": c, "model.safetensors": data}, str(i)))
            )
        )
        for i, c in enumerate((one, other, third))
    ]
    assert got[0] == got[1] != got[2]


@pytest.mark.parametrize("change", ["first", "middle", "last", "name", "dtype", "shape", "tensor"])
def test_what_is_sampled_is_told_apart(make_directory: Make, change: str) -> None:
    state = {"w": torch.zeros(100, 512), "v": torch.zeros(8)}
    before = fingerprint(open_checkpoint(str(make_directory({"model.safetensors": save(state)}))))
    flat = state["w"].view(-1)
    match change:
        case "first" | "middle" | "last":
            flat[{"first": 0, "middle": flat.numel() // 2, "last": -1}[change]] = 1
        case "name":
            state["u"] = state.pop("v")
        case "dtype":
            state["v"] = state["v"].int()
        case "shape":
            state["v"] = state["v"].view(2, 4)
        case "tensor":
            del state["v"]
    after = fingerprint(open_checkpoint(str(make_directory({"model.safetensors": save(state)}))))
    assert before != after


def test_views_in_a_pickle_have_fingerprints(make_directory: Make, tmp_path: Path) -> None:
    found = []
    for i, value in enumerate((torch.arange(6.0).view(2, 3).t(), torch.ones(2, 3).t())):
        path = make_directory({}, str(i))
        torch.save({"w": value, "e": torch.empty(0, 2)}, path / "pytorch_model.bin")
        found.append(fingerprint(open_checkpoint(str(path))))
    assert found[0] != found[1]


def test_metadata_of_a_gguf_file_counts_with_its_types(tmp_path: Path) -> None:
    found = set()
    for i, add in enumerate(("add_uint32", "add_int32", "add_uint64")):
        writer = GGUFWriter(tmp_path / f"{i}.gguf", "llama")
        getattr(writer, add)("a", 3)
        writer.add_array("texts", ["a", "b"])
        writer.add_tensor("t", np.ones((2, 32), np.float32))
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_tensors_to_file()
        writer.close()
        found.add(fingerprint(open_checkpoint(str(tmp_path / f"{i}.gguf"))))
    assert len(found) == 3


def test_it_is_the_same_tomorrow(make_directory: Make) -> None:
    config = json.dumps({"architectures": ["X"]})
    path = make_directory({"config.json": config, "model.safetensors": save({"w": torch.ones(2)})})
    want = "15c4a4c7b7c9abc07936a1193641562194a1aa7be0c334e750e0e39cbe8ec3f0"
    assert fingerprint(open_checkpoint(str(path))) == want
