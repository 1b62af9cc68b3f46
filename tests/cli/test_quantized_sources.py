"""Checkpoints that are quantized already, by every command that takes a model."""

import json
from pathlib import Path

import pytest
from quantized_sources import change_tensors, gptq_layer, save_quantized
from speaking_models import BYTE_LEVEL, PROSE, VOCABULARY
from tokenizer_oracles import byte_level_directory

SETTINGS = {"quant_method": "gptq", "bits": 4, "group_size": 32, "desc_act": True}
COMMANDS = (
    "quantize MODEL -t q4_k_m -o OUT.gguf",
    "quantize MODEL -t w8a16 -o OUT",
    "calibrate MODEL --data TEXT --tokens 512 -o OUT.safetensors",
    "export MODEL --dtype bf16 -o OUT.gguf",
    "evaluate MODEL --reference MODEL --data TEXT --tokens 512 --json",
)


@pytest.fixture(scope="module")
def places(tmp_path_factory) -> dict[str, str]:
    folder = tmp_path_factory.mktemp("quantized")
    save_quantized(
        folder / "model",
        SETTINGS,
        lambda weight: gptq_layer(weight, act_order=True),
        num_hidden_layers=1,
        vocab_size=VOCABULARY,
    )
    byte_level_directory(folder / "model", BYTE_LEVEL, before="<|begin|>")
    (folder / "text.txt").write_text(PROSE * 30)
    return {"MODEL": str(folder / "model"), "TEXT": str(folder / "text.txt")}


def test_inspect_says_what_it_is(qconvert, places) -> None:
    shown = qconvert("inspect", places["MODEL"], "-t", "q8_0")
    assert "gptq int4" in shown.stdout
    assert "quantized already (gptq int4" in shown.stderr
    data = json.loads(qconvert("inspect", places["MODEL"], "--json").stdout)
    assert (data["kind"], data["architecture"]) == ("checkpoint", "llama")
    assert data["dtypes"]["gptq int4 g32"]["tensors"] == 7
    assert data["size_bytes"] < 4 * data["parameters"]


@pytest.mark.parametrize("command", COMMANDS)
def test_it_is_read_like_any_other(qconvert, places, command: str, tmp_path: Path) -> None:
    out = tmp_path / "out"
    arguments = [places.get(word, word.replace("OUT", str(out))) for word in command.split()]
    done = qconvert(*arguments)
    assert done.returncode == 0, done.stderr
    if not command.startswith("evaluate"):
        assert list(tmp_path.glob("out*"))
        return
    found = json.loads(done.stdout)["files"][0]
    assert abs(found["kl_divergence"]["mean"]) < 1e-6


@pytest.mark.parametrize("command", COMMANDS)
def test_damage_is_one_line(qconvert, places, command: str, tmp_path: Path) -> None:
    model = tmp_path / "model"
    model.mkdir()
    for file in Path(places["MODEL"]).iterdir():
        (model / file.name).write_bytes(file.read_bytes())
    change_tensors(model, lambda name, t: t + 99 if name.endswith("up_proj.g_idx") else t)
    known, out = {**places, "MODEL": str(model)}, tmp_path / "out"
    done = qconvert(*(known.get(w, w.replace("OUT", str(out))) for w in command.split()))
    assert done.returncode == 1
    errors = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
    assert len(errors) == 1
    assert "g_idx" in errors[0]
    assert "Traceback" not in done.stderr
    assert not list(tmp_path.glob("out*"))
