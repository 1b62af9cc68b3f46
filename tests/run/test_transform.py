"""From checkpoint to checkpoint: nothing is lost on the way, and what has changed arrives."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from common import FAMILIES, random_tokens, save_model, torch_hidden, torch_logits
from interrupting import Interrupting
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from qconvert.checkpoint import open_checkpoint, read_rows
from qconvert.containers.store import open_store
from qconvert.errors import OutputError, UnsupportedError, WeightError
from qconvert.machine.watcher import Silent
from qconvert.plan.recipe import Recipe
from qconvert.run.transform import UNCHANGED, Change, plan_transform, transform

SHAPES: dict[str, dict[str, Any]] = {
    "tied": {"tied": True},
    "untied, in shards": {"max_shard_size": "1MB"},
}


def copy(model: Path, out: Path, change: Change = UNCHANGED, **options: Any) -> Any:
    checkpoint = open_checkpoint(str(model))
    return transform(checkpoint, out, change, threads=2, **{"watcher": Silent(), **options})


def tensors_of(folder: Path) -> dict[str, torch.Tensor]:
    return {
        name: tensor
        for path in folder.glob("*.safetensors")
        for name, tensor in load_file(path).items()
    }


def assert_same(found: dict[str, torch.Tensor], wanted: dict[str, torch.Tensor]) -> None:
    """The same tensors, bit by bit."""
    assert found.keys() == wanted.keys()
    for name, tensor in wanted.items():
        assert found[name].dtype == tensor.dtype
        assert found[name].shape == tensor.shape
        assert torch.equal(bytes_of(found[name]), bytes_of(tensor))


def bytes_of(tensor: torch.Tensor) -> torch.Tensor:
    return tensor.reshape(-1).view(torch.uint8)


@pytest.mark.parametrize("kind", SHAPES)
@pytest.mark.parametrize("family", FAMILIES)
def test_a_copy_is_the_same_model(family: str, kind: str, tmp_path: Path):
    model = save_model(family, tmp_path / "m", **SHAPES[kind])
    result = copy(tmp_path / "m", tmp_path / "out", max_shard_size=1_000_000)
    assert_same(tensors_of(tmp_path / "out"), tensors_of(tmp_path / "m"))
    assert set((tmp_path / "out").iterdir()) == {*result.paths}
    configs = [json.loads((tmp_path / name / "config.json").read_text()) for name in ("m", "out")]
    assert configs[0] == configs[1]
    logits = torch_hidden if family == "bert" else torch_logits
    tokens = random_tokens(24)
    again = type(model).from_pretrained(tmp_path / "out", attn_implementation="eager").eval()
    np.testing.assert_array_equal(logits(again, tokens), logits(model, tokens))


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_every_dtype_and_every_file_stays(dtype: str, tmp_path: Path):
    model = save_model("llama", tmp_path / "m")
    model.to(getattr(torch, dtype)).save_pretrained(tmp_path / "m")
    own = load_file(tmp_path / "m/model.safetensors")
    own |= {"more.ids": torch.arange(7), "more.flag": torch.tensor(3, dtype=torch.uint8)}
    own["more.wide"] = torch.ones(3, 2, dtype=torch.float64) / 3
    save_file(own, tmp_path / "m/model.safetensors", {"format": "pt"})
    (tmp_path / "m/tokenizer.json").write_text("{}")
    copy(tmp_path / "m", tmp_path / "out")
    assert_same(tensors_of(tmp_path / "out"), tensors_of(tmp_path / "m"))
    assert (tmp_path / "out/tokenizer.json").read_text() == "{}"
    with safe_open(tmp_path / "out/model.safetensors", "pt") as file:
        assert file.metadata()["format"] == "pt"
        assert file.metadata()["qconvert.source"] == "m"


@pytest.mark.parametrize("dtype", ["bfloat16", "float32"])
def test_a_changed_tensor_arrives_in_the_dtype_that_it_had(dtype: str, tmp_path: Path):
    model = save_model("llama", tmp_path / "m", tied=True)
    model.to(getattr(torch, dtype)).save_pretrained(tmp_path / "m")
    name = "model.layers.1.mlp.down_proj.weight"
    own = tensors_of(tmp_path / "m")
    other = (own[name].float() * 1.7 + 0.01).numpy()
    with open_store(tmp_path / "out.work", "one") as store:
        store.put(name, {name: other})
        change = Change(store.tensors, {"qconvert.change": "1.7"}, {"NOTE.md": b"changed"})
        copy(tmp_path / "m", tmp_path / "out", change)
        store.delete()
    wanted = own | {name: torch.from_numpy(other).to(own[name].dtype)}
    assert_same(tensors_of(tmp_path / "out"), wanted)
    assert (tmp_path / "out/NOTE.md").read_bytes() == b"changed"
    with safe_open(tmp_path / "out/model.safetensors", "pt") as file:
        assert file.metadata()["qconvert.change"] == "1.7"
    options = {"dtype": dtype, "attn_implementation": "eager"}
    model, again = (type(model).from_pretrained(tmp_path / n, **options) for n in ("m", "out"))
    with torch.no_grad():
        model.get_parameter(name).copy_(wanted[name])
    tokens = random_tokens(24)
    np.testing.assert_array_equal(torch_logits(again, tokens), torch_logits(model, tokens))


def test_an_interrupted_copy_goes_on_and_with_other_values_begins_anew(tmp_path: Path):
    save_model("llama", tmp_path / "m")
    name = "lm_head.weight"
    own = tensors_of(tmp_path / "m")[name]
    changes = []
    for factor in (2, 3):
        with open_store(tmp_path / f"store{factor}", "one") as store:
            store.put(name, {name: (own * factor).numpy()})
            changes.append(Change(store.tensors))
    for change, resumed in ((changes[0], True), (changes[1], False)):
        with pytest.raises(KeyboardInterrupt):
            copy(tmp_path / "m", tmp_path / "out", changes[0], watcher=Interrupting(12))
        assert not (tmp_path / "out").exists()
        result = copy(tmp_path / "m", tmp_path / "out", change)
        assert (result.resumed > 0) == resumed
        copy(tmp_path / "m", tmp_path / "whole", change)
        assert_same(tensors_of(tmp_path / "out"), tensors_of(tmp_path / "whole"))
        for done in ("out", "whole"):
            plan_transform(
                open_checkpoint(str(tmp_path / "m")), Recipe("copy", output=tmp_path / done)
            ).target.clear()


def test_what_was_quantized_becomes_numbers(tmp_path: Path):
    """Weights in float8 with a scale for each block."""
    save_model("llama", tmp_path / "m")
    own = tensors_of(tmp_path / "m")
    name = "model.layers.0.mlp.up_proj.weight"
    scales = torch.rand(-(-own[name].shape[0] // 128), -(-own[name].shape[1] // 128)) + 0.5
    own |= {name: own[name].to(torch.float8_e4m3fn), f"{name}_scale_inv": scales}
    save_file(own, tmp_path / "m/model.safetensors", {"format": "pt"})
    config = json.loads((tmp_path / "m/config.json").read_text())
    quantized = {"quant_method": "fp8", "weight_block_size": [128, 128]}
    (tmp_path / "m/config.json").write_text(
        json.dumps({**config, "quantization_config": quantized})
    )
    copy(tmp_path / "m", tmp_path / "out")
    info = open_checkpoint(str(tmp_path / "m")).tensors[name]
    wanted = {n: t for n, t in own.items() if not n.endswith("_inv")}
    wanted[name] = torch.from_numpy(read_rows(info, 0, info.rows))
    assert_same(tensors_of(tmp_path / "out"), wanted)
    assert json.loads((tmp_path / "out/config.json").read_text()) == config


def test_what_cannot_be_is_refused(tmp_path: Path):
    from common import convert_model

    save_model("llama", tmp_path / "m")
    convert_model(tmp_path / "m", tmp_path / "m.gguf", "f16")
    with pytest.raises(UnsupportedError, match="no Hugging Face directory"):
        copy(tmp_path / "m.gguf", tmp_path / "out")
    (tmp_path / "out").mkdir()
    (tmp_path / "out/mine").write_text("")
    with pytest.raises(OutputError, match="not empty"):
        copy(tmp_path / "m", tmp_path / "out")
    own = load_file(tmp_path / "m/model.safetensors")
    own["lm_head.weight"][3, 3] = torch.nan
    save_file(own, tmp_path / "m/model.safetensors", {"format": "pt"})
    with pytest.raises(WeightError, match=r"lm_head\.weight holds weights that are NaN"):
        copy(tmp_path / "m", tmp_path / "other")
