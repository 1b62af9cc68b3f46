"""What is no model is named as what it is by every command that takes one."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from speaking_models import PROSE, convert_speaking_model, save_speaking_model

ADAPTER = {"model.layers.0.self_attn.q_proj.lora_A.weight": torch.ones(4, 4)}


def write_optimizer(folder: Path) -> Path:
    state = {0: {"step": torch.tensor(1.0), "exp_avg": torch.ones(3, 4)}}
    groups = [{"lr": 1e-3, "betas": (0.9, 0.999), "params": [0]}]
    torch.save({"state": state, "param_groups": groups}, folder / "pytorch_model.bin")
    return folder


def write_adapter(folder: Path) -> Path:
    save_file(ADAPTER, folder / "model.safetensors")
    return folder


def write_adapter_alone(folder: Path) -> Path:
    (folder / "config.json").unlink()
    save_file(ADAPTER, folder / "found.safetensors")
    return folder / "found.safetensors"


def write_consolidated(folder: Path) -> Path:
    save_file({"layers.0.attention.wq.weight": torch.ones(4)}, folder / "consolidated.safetensors")
    return folder


def write_flax(folder: Path) -> Path:
    (folder / "flax_model.msgpack").write_bytes(b"x")
    return folder


CASES = {
    "the state of an optimizer": write_optimizer,
    "a PEFT adapter": write_adapter,
    "a PEFT adapter:": write_adapter_alone,
    "weights in Mistral's own format": write_consolidated,
    "a Flax checkpoint": write_flax,
}
COMMANDS = (
    "inspect MODEL",
    "quantize MODEL -t q8_0 -o OUT.gguf",
    "quantize MODEL -t w8a16 -o OUT",
    "calibrate MODEL --data TEXT -o OUT.safetensors",
    "export MODEL --dtype bf16 -o OUT.gguf",
    "evaluate GOOD.gguf --reference MODEL --data TEXT",
    "evaluate MODEL --reference GOOD.gguf --data TEXT",
    "report MODEL --data TEXT -o OUT",
)


@pytest.fixture(scope="module")
def places(tmp_path_factory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("places")
    good = convert_speaking_model(save_speaking_model(folder / "good"))
    (folder / "text.txt").write_text(PROSE * 20)
    return {"GOOD.gguf": good, "TEXT": folder / "text.txt", "good": folder / "good"}


@pytest.mark.parametrize("command", COMMANDS)
@pytest.mark.parametrize("words", CASES)
def test_it_is_named(qconvert, places, words: str, command: str, tmp_path: Path) -> None:
    folder = tmp_path / "model"
    folder.mkdir()
    for file in places["good"].iterdir():
        if file.name != "model.safetensors":
            (folder / file.name).write_bytes(file.read_bytes())
    model = CASES[words](folder)
    known = {**{name: str(path) for name, path in places.items()}, "MODEL": str(model)}
    out = tmp_path / "out"
    arguments = [known.get(w, w.replace("OUT", str(out))) for w in command.split()]
    done = qconvert(*arguments)
    if model.is_file() and command.startswith("inspect"):  # which lists tensors of any origin
        assert done.returncode == 0
        assert words in done.stdout
        return
    assert done.returncode == 1, done.stderr
    assert f"holds {words}" in done.stderr
    assert "hint: " in done.stderr
    assert not list(tmp_path.glob("out*"))
