"""Adapters, merged as rows are read: held against the sum spelled out, and against peft where it is
there."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from common import convert_model, llama_logits, random_tokens, save_model, worst_difference
from safetensors.torch import load_file, save_file

from qconvert.checkpoint import open_checkpoint, read_rows
from qconvert.checkpoint.adapter import read_adapter
from qconvert.errors import CheckpointError, PlanError, QconvertError, UnsupportedError
from qconvert.machine.watcher import Silent
from qconvert.plan.recipe import Recipe
from qconvert.run.transform import plan_transform, transform

ROOT = "base_model.model."
RANK, ALPHA = 4, 12.0


def write_adapter(
    folder: Path, sizes: dict[str, tuple[int, int]], *, dora: bool = False, **config: Any
) -> dict[str, torch.Tensor]:
    """An adapter of some modules [out, in]; gives its tensors."""
    draw = torch.Generator().manual_seed(5)
    tensors = {}
    for module, (rows, columns) in sizes.items():
        name = ROOT + module
        tensors[f"{name}.lora_A.weight"] = torch.randn(RANK, columns, generator=draw) * 0.1
        tensors[f"{name}.lora_B.weight"] = torch.randn(rows, RANK, generator=draw) * 0.1
        if dora:
            tensors[f"{name}.lora_magnitude_vector"] = torch.rand(rows, generator=draw) + 0.5
    folder.mkdir(parents=True)
    save_file(tensors, folder / "adapter_model.safetensors")
    said = {"peft_type": "LORA", "r": RANK, "lora_alpha": ALPHA, "use_dora": dora}
    said["base_model_name_or_path"] = "org/base"
    (folder / "adapter_config.json").write_text(json.dumps(said | config))
    return tensors


def merged(model: Path, adapter: Path, name: str) -> np.ndarray:
    info = open_checkpoint(str(model), adapter=adapter).tensors[name]
    return np.concatenate([read_rows(info, 0, 5), read_rows(info, 5, info.rows)])


Q, DOWN = "model.layers.1.self_attn.q_proj", "model.layers.0.mlp.down_proj"
SIZES = {Q: (240, 288), DOWN: (288, 416)}


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("adapters") / "m"
    save_model("llama", folder)
    return folder


@pytest.mark.parametrize(
    ("config", "scales"),
    [
        ({}, {Q: 3.0, DOWN: 3.0}),
        ({"use_rslora": True}, {Q: 6.0, DOWN: 6.0}),
        ({"alpha_pattern": {"layers.1.self_attn.q_proj": 8}}, {Q: 2.0, DOWN: 3.0}),
    ],
)
@pytest.mark.parametrize("dora", [False, True])
def test_rows_are_those_of_the_sum(
    model: Path, tmp_path: Path, config: dict[str, Any], scales: dict[str, float], dora: bool
):
    parts = write_adapter(tmp_path / "a", SIZES, dora=dora, **config)
    own = load_file(model / "model.safetensors")
    for module, scale in scales.items():
        up, down = (parts[f"{ROOT}{module}.lora_{part}.weight"].double() for part in "BA")
        wanted = own[f"{module}.weight"].double() + scale * up @ down
        if dora:
            size = parts[f"{ROOT}{module}.lora_magnitude_vector"].double()
            wanted *= (size / wanted.norm(dim=1))[:, None]
        found = merged(model, tmp_path / "a", f"{module}.weight")
        np.testing.assert_allclose(found, wanted.numpy(), rtol=1e-4, atol=1e-6)
    other = "model.layers.0.self_attn.q_proj.weight"
    np.testing.assert_array_equal(merged(model, tmp_path / "a", other), own[other].numpy())


def test_tables_and_tensors_that_are_saved_whole(model: Path, tmp_path: Path):
    write_adapter(tmp_path / "a", SIZES)
    tensors = load_file(tmp_path / "a/adapter_model.safetensors")
    draw = torch.Generator().manual_seed(6)
    name = f"{ROOT}model.embed_tokens"
    tensors[f"{name}.lora_embedding_A"] = torch.randn(RANK, 323, generator=draw)
    tensors[f"{name}.lora_embedding_B"] = torch.randn(288, RANK, generator=draw)
    tensors[f"{ROOT}lm_head.weight"] = torch.randn(323, 288, generator=draw)
    save_file(tensors, tmp_path / "a/adapter_model.safetensors")
    own = load_file(model / "model.safetensors")["model.embed_tokens.weight"]
    both = tensors[f"{name}.lora_embedding_B"] @ tensors[f"{name}.lora_embedding_A"]
    found = merged(model, tmp_path / "a", "model.embed_tokens.weight")
    np.testing.assert_allclose(found, own + 3 * both.T, rtol=1e-4, atol=1e-5)
    found = merged(model, tmp_path / "a", "lm_head.weight")
    np.testing.assert_array_equal(found, tensors[f"{ROOT}lm_head.weight"])


@pytest.mark.parametrize("dora", [False, True])
def test_a_merged_model_is_pefts(model: Path, tmp_path: Path, dora: bool):
    peft = pytest.importorskip("peft")
    import transformers

    write_adapter(tmp_path / "a", SIZES, dora=dora, use_rslora=True, target_modules=["q_proj"])
    said = json.loads((tmp_path / "a/adapter_config.json").read_text())
    said["target_modules"] = list(SIZES)
    (tmp_path / "a/adapter_config.json").write_text(json.dumps(said))
    base = transformers.AutoModelForCausalLM.from_pretrained(model, dtype=torch.float32)
    whole = peft.PeftModel.from_pretrained(base, tmp_path / "a").merge_and_unload().eval()
    checkpoint = open_checkpoint(str(model), adapter=tmp_path / "a")
    transform(checkpoint, tmp_path / "out", threads=2, watcher=Silent())
    found = load_file(tmp_path / "out/model.safetensors")
    for name, tensor in whole.state_dict().items():
        np.testing.assert_allclose(found[name], tensor, rtol=1e-4, atol=1e-6)


def test_a_merged_model_runs_in_llama_cpp_and_is_another_model(model: Path, tmp_path: Path):
    write_adapter(tmp_path / "a", SIZES)
    checkpoint = open_checkpoint(str(model), adapter=tmp_path / "a")
    transform(checkpoint, tmp_path / "out", threads=2, watcher=Silent())
    import transformers

    made = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "out", dtype=torch.float32)
    convert_model(tmp_path / "out", tmp_path / "out.gguf", "f32")
    tokens = random_tokens(24)
    with torch.no_grad():
        wanted = made(torch.tensor([tokens])).logits[0].numpy()
    assert worst_difference(wanted, llama_logits(tmp_path / "out.gguf", tokens)) < 1e-3
    plain = plan_transform(open_checkpoint(str(model)), Recipe("copy", output=tmp_path / "x"))
    with_it = plan_transform(checkpoint, Recipe("copy", output=tmp_path / "x"))
    headers = [plan.target.weight_files[0].header() for plan in (plain, with_it)]
    assert headers[0] != headers[1]


@pytest.mark.parametrize(
    ("config", "sizes", "error", "said"),
    [
        ({"peft_type": "LOHA"}, SIZES, UnsupportedError, "of the kind 'LOHA'"),
        ({"target_parameters": ["x"]}, SIZES, UnsupportedError, "target_parameters in"),
        ({"lora_alpha": "much"}, SIZES, CheckpointError, "lora_alpha is 'much', no number"),
        ({"alpha_pattern": {"(": 1}}, SIZES, CheckpointError, "alpha_pattern has"),
        ({"alpha_pattern": {"((.|..)+)+m": 1}}, SIZES, CheckpointError, "timed out"),
        ({}, {Q: (240, 99)}, PlanError, r"is for \[240, 99\]"),
        ({}, {"model.layers.9.mlp.up_proj": (4, 4)}, UnsupportedError, "does not have as such"),
    ],
)
def test_what_cannot_be_merged_is_said(
    model: Path,
    tmp_path: Path,
    config: dict[str, Any],
    sizes: dict[str, tuple[int, int]],
    error: type[QconvertError],
    said: str,
):
    write_adapter(tmp_path / "a", sizes, **config)
    with pytest.raises(error, match=said):
        open_checkpoint(str(model), adapter=tmp_path / "a")


def test_no_adapter_and_half_of_one_are_said(tmp_path: Path):
    with pytest.raises(CheckpointError, match="holds no adapter_config"):
        read_adapter(tmp_path)
    write_adapter(tmp_path / "a", SIZES)
    tensors = load_file(tmp_path / "a/adapter_model.safetensors")
    del tensors[f"{ROOT}{Q}.lora_A.weight"]
    save_file(tensors, tmp_path / "a/adapter_model.safetensors")
    with pytest.raises(CheckpointError, match="one half of an addition"):
        read_adapter(tmp_path / "a")


@pytest.mark.parametrize("what", ["lora_A.weight", "lora_B.weight", "both", "whole"])
def test_what_holds_nothing_is_named(what: str, model: Path, tmp_path: Path) -> None:
    tensors = write_adapter(tmp_path / "a", SIZES)
    names = [f"{ROOT}{DOWN}.{part}.weight" for part in ("lora_A", "lora_B")]
    if what == "both":  # of rank 0
        tensors |= {names[0]: torch.empty(0, 416), names[1]: torch.empty(288, 0)}
    elif what == "whole":
        names = [f"{ROOT}lm_head.modules_to_save.weight"]
        tensors[names[0]] = torch.empty(0)
    else:
        names = [name for name in names if name.endswith(what)]
        tensors[names[0]] = torch.empty(0)
    save_file(tensors, tmp_path / "a" / "adapter_model.safetensors")
    with pytest.raises(CheckpointError, match="is empty") as raised:
        open_checkpoint(str(model), adapter=tmp_path / "a")
    assert any(name in raised.value.message for name in names)
