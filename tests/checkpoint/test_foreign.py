"""What is no model is named as what it is, with what to do."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from common import finish_gguf, save_model
from gguf import GGUFWriter
from safetensors.torch import load_file, save_file

from qconvert.checkpoint import open_checkpoint
from qconvert.errors import CheckpointError, UnsupportedError
from qconvert.inspection import look_at
from qconvert.model.open import open_model

OWN = "consolidated.safetensors"
FILES = {
    "adapter_config.json": "PEFT adapter",
    "tf_model.h5": "TensorFlow",
    "flax_model.msgpack": "Flax",
    "model.onnx": "ONNX",
    "optimizer.pt": "optimizer",
    "consolidated.00.pth": "their makers",
    OWN: "Mistral's own format",
    "pytorch_lora_weights.bin": "LoRA adapter",
}


@pytest.mark.parametrize("configured", [False, True])
@pytest.mark.parametrize("name", FILES)
def test_a_directory_without_a_models_weights(name: str, configured: bool, tmp_path: Path) -> None:
    if configured:
        save_model("llama", tmp_path)
        (tmp_path / "model.safetensors").unlink()
    (tmp_path / name).write_bytes(b"{}")
    with pytest.raises(UnsupportedError, match=FILES[name]) as raised:
        open_checkpoint(str(tmp_path))
    assert raised.value.hint


@pytest.mark.parametrize("name", sorted(set(FILES) - {"adapter_config.json"}))
def test_such_a_file_by_itself(name: str, tmp_path: Path) -> None:
    (tmp_path / name).write_bytes(b"{}")
    with pytest.raises(UnsupportedError, match=FILES[name]):
        open_checkpoint(str(tmp_path / name))


@pytest.mark.parametrize("name", sorted(set(FILES) - {"adapter_config.json"}))
def test_beside_a_models_weights_they_do_not_matter(name: str, tmp_path: Path) -> None:
    save_model("llama", tmp_path)
    (tmp_path / name).write_bytes(b"{}")
    assert open_model(open_checkpoint(str(tmp_path))).parameters


def test_an_adapter_beside_weights_is_not_passed_over(tmp_path: Path) -> None:
    save_model("llama", tmp_path)
    (tmp_path / "adapter_config.json").write_text("{}")
    with pytest.raises(UnsupportedError, match="PEFT adapter") as raised:
        open_checkpoint(str(tmp_path))
    assert "remove adapter_config.json" in raised.value.hint


PARTS = {
    "weight.absmax": "bitsandbytes",
    "SCB": "bitsandbytes",
    "g_idx": "GPTQ",
    "qweight": "GPTQ or AWQ",
    "biases": "MLX",
    "W_q": "HQQ",
    "lora_A.weight": "PEFT adapter",
    "lora_B.default.weight": "PEFT adapter",
    "lora_a": "adapter of MLX",
    "lora_down.weight": "LoRA adapter",
    "attention.wq.weight": "their makers' own format",
}


@pytest.mark.parametrize("part", PARTS)
def test_codes_that_the_configuration_does_not_name(part: str, tmp_path: Path) -> None:
    save_model("llama", tmp_path)
    file = tmp_path / "model.safetensors"
    more = {f"model.layers.0.mlp.down_proj.{part}": torch.zeros(4)}
    save_file(load_file(file) | more, file, {"format": "pt"})
    with pytest.raises(UnsupportedError, match=PARTS[part]):
        open_checkpoint(str(tmp_path))


@pytest.mark.parametrize("configured", [False, True])
@pytest.mark.parametrize("by_itself", [False, True])
def test_an_adapter_whose_configuration_is_lost(
    by_itself: bool, configured: bool, tmp_path: Path
) -> None:
    save_model("llama", tmp_path)
    if not configured:
        (tmp_path / "config.json").unlink()
    name = "base_model.model.model.layers.0.self_attn.q_proj.lora_{}.weight"
    tensors = {name.format(part): torch.zeros(4, 4) for part in "AB"}
    save_file(tensors, tmp_path / "model.safetensors", {"format": "pt"})
    path = tmp_path / "model.safetensors" if by_itself else tmp_path
    with pytest.raises(UnsupportedError, match="PEFT adapter") as raised:
        open_checkpoint(str(path))
    assert "merge" in raised.value.hint


def training() -> tuple[dict, dict]:
    """What an optimizer and its schedule save after a step."""
    layer = torch.nn.Linear(3, 4)
    optimizer = torch.optim.AdamW(layer.parameters())
    schedule = torch.optim.lr_scheduler.StepLR(optimizer, 3)
    layer(torch.ones(3)).sum().backward()
    optimizer.step()
    return optimizer.state_dict(), schedule.state_dict()


@pytest.mark.parametrize("new", [True, False])
@pytest.mark.parametrize("name", ["pytorch_model.bin", "last.pt", "last.pth"])
def test_pickles_of_a_training(name: str, new: bool, tmp_path: Path) -> None:
    save_model("llama", tmp_path)
    weights = load_file(tmp_path / "model.safetensors")
    (tmp_path / "model.safetensors").unlink()
    optimizer, schedule = training()
    cases = {
        "the state of an optimizer": optimizer,
        "the state of a training, which": schedule,
        "the weights under 'model'": {"epoch": 3, "model": weights, "optimizer": optimizer},
        "the weights under 'state_dict'": {"state_dict": weights, "lr_schedulers": [schedule]},
    }
    for words, state in cases.items():
        torch.save(state, tmp_path / name, _use_new_zipfile_serialization=new)
        for path in (tmp_path / name, *([tmp_path] if name == "pytorch_model.bin" else [])):
            with pytest.raises(UnsupportedError, match=words) as raised:
                open_checkpoint(str(path))
            assert raised.value.hint
    torch.save(weights, tmp_path / name)
    assert open_model(open_checkpoint(str(tmp_path / name))).parameters


def test_the_makers_own_weights_are_not_mixed_with_the_models(tmp_path: Path) -> None:
    save_model("llama", tmp_path, max_shard_size="100KB")
    before = open_checkpoint(str(tmp_path))
    assert len(before.files) > 1
    save_file({"layers.0.attention.wq.weight": torch.ones(4, 4)}, tmp_path / OWN)
    after = open_checkpoint(str(tmp_path))
    assert after.files == before.files
    assert list(after.tensors) == list(before.tensors)
    (tmp_path / "model.safetensors.index.json").unlink()
    with pytest.raises(CheckpointError, match="no index of shards") as raised:
        open_checkpoint(str(tmp_path))  # and not that it is Mistral's
    assert "fetch it" in raised.value.hint


def write_gguf(path: Path, architecture: str, fill: Callable[[GGUFWriter], None]) -> Path:
    writer = GGUFWriter(path, architecture)
    fill(writer)
    return finish_gguf(writer, path)


GGUFS = {
    "LoRA adapter": ("llama", lambda w: w.add_type("adapter")),
    "reads images": ("clip", lambda w: w.add_type("mmproj")),
    "vocabulary alone": ("llama", lambda w: w.add_vocab_size(8)),
    "control vector": ("controlvector", lambda w: None),
}


@pytest.mark.parametrize("what", GGUFS)
def test_gguf_files_without_a_model(what: str, tmp_path: Path) -> None:
    checkpoint = open_checkpoint(str(write_gguf(tmp_path / "m.gguf", *GGUFS[what])))
    with pytest.raises(UnsupportedError, match=what):
        open_model(checkpoint)
    told = any(what in problem for problem in look_at(checkpoint).problems)
    assert told or what == "reads images"  # which `inspect` tells of


def test_weights_that_are_plain_in_a_directory_of_mlxs(tmp_path: Path) -> None:
    """Layers that are not quantized are numbers, whatever config.json says of the others."""
    save_model("llama", tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    config["quantization_config"] = {"bits": 4, "group_size": 64}
    (tmp_path / "config.json").write_text(json.dumps(config))
    tensors = open_checkpoint(str(tmp_path)).tensors
    assert all(info.codes is None and info.is_plain for info in tensors.values())
