"""Adapters on the command line: merged by every command, and as a file for llama.cpp, which runs
it."""

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from common import _copy as copied
from common import convert_model, decode, llama_context, random_tokens, save_model, worst_difference
from safetensors.torch import load_file, save_file

ROOT = "base_model.model."
RANK = 4


def write_adapter(model: Path, folder: Path, modules: list[str], **config: Any) -> None:
    """An adapter of some linear layers of a model."""
    stored, draw = load_file(model / "model.safetensors"), torch.Generator().manual_seed(3)
    tensors = {}
    for module in modules:
        rows, columns = stored[f"{module}.weight"].shape
        if config.get("fan_in_fan_out"):
            rows, columns = columns, rows
        name = ROOT + module
        tensors[f"{name}.lora_A.weight"] = torch.randn(RANK, columns, generator=draw) * 0.2
        tensors[f"{name}.lora_B.weight"] = torch.randn(rows, RANK, generator=draw) * 0.2
    folder.mkdir()
    save_file(tensors, folder / "adapter_model.safetensors")
    said = {"peft_type": "LORA", "r": RANK, "lora_alpha": 6, "base_model_name_or_path": str(model)}
    (folder / "adapter_config.json").write_text(json.dumps(said | config))


def lora_logits(model: Path, lora: Path, tokens: list[int]) -> np.ndarray:
    """Of llama.cpp, with an adapter beside a model."""
    import llama_cpp

    with llama_context(model, len(tokens)) as (opened, context):
        adapter = llama_cpp.llama_adapter_lora_init(opened, str(lora).encode())
        assert adapter
        pointers = (llama_cpp.llama_adapter_lora_p_ctypes * 1)(adapter)
        scales = (llama_cpp.ctypes.c_float * 1)(1.0)
        assert llama_cpp.llama_set_adapters_lora(context, pointers, 1, scales) == 0
        decode(context, tokens)
        size = llama_cpp.llama_vocab_n_tokens(llama_cpp.llama_model_get_vocab(opened))
        return copied(llama_cpp.llama_get_logits(context), len(tokens), size)


FAMILIES = {
    "llama": (["self_attn.q_proj", "self_attn.k_proj", "mlp.down_proj"], {"use_rslora": True}),
    "phi3": (["self_attn.qkv_proj", "mlp.gate_up_proj"], {}),
    "gpt2": (["attn.c_attn", "mlp.c_proj"], {"fan_in_fan_out": True}),
    "qwen3": (["self_attn.v_proj", "self_attn.o_proj"], {"alpha_pattern": {"v_proj": 3}}),
}


@pytest.mark.parametrize("family", FAMILIES)
def test_llama_cpp_with_the_file_is_the_merged_model(qconvert, family: str, tmp_path: Path):
    save_model(family, tmp_path / "m")
    layers = "transformer.h" if family == "gpt2" else "model.layers"
    parts, config = FAMILIES[family]
    modules = [f"{layers}.{block}.{part}" for block in (0, 2) for part in parts]
    write_adapter(tmp_path / "m", tmp_path / "a", modules, **config)
    done = qconvert("export", tmp_path / "a", "-o", tmp_path / "lora.gguf", "--json")
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["outputs"][0]["weights"] == len(modules)
    convert_model(tmp_path / "m", tmp_path / "m.gguf", "f32")
    merged = tmp_path / "merged.gguf"
    asked = ("export", tmp_path / "m", "--adapter", tmp_path / "a", "--no-vocabulary")
    done = qconvert(*asked, "--dtype", "f32", "-o", merged)
    assert done.returncode == 0, done.stderr
    assert f"{tmp_path / 'a'} is merged into {len(modules)} weights" in done.stderr
    back = qconvert("export", merged, "-o", tmp_path / "back")
    assert back.returncode == 0, back.stderr
    whole = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "back").float().eval()
    plain = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "m").float().eval()
    tokens = random_tokens(24)
    with torch.no_grad():
        wanted, without = (one(torch.tensor([tokens])).logits[0].numpy() for one in (whole, plain))
    found = lora_logits(tmp_path / "m.gguf", tmp_path / "lora.gguf", tokens)
    assert worst_difference(wanted, found) < 1e-3
    assert worst_difference(without, found) > 0.01


def test_a_calibration_is_of_the_merged_model(qconvert, model, tmp_path):
    write_adapter(model_with_one_file(model, tmp_path), tmp_path / "a", [NAME])
    (tmp_path / "t.txt").write_text(" ".join(map(str, range(6000))))
    base, adapter = tmp_path / "base", ("--adapter", tmp_path / "a")
    calibration = ("-o", tmp_path / "c.safetensors", "--tokens", 1024, "--window", 64)
    done = qconvert("calibrate", base, *adapter, "--data", tmp_path / "t.txt", *calibration)
    assert done.returncode == 0, done.stderr
    asked = ("quantize", base, "-t", "q4_k_m", "-c", tmp_path / "c.safetensors")
    done = qconvert(*asked, "-o", tmp_path / "x.gguf", *adapter)
    assert done.returncode == 0, done.stderr
    done = qconvert(*asked, "-o", tmp_path / "y.gguf")
    assert "is another model" in done.stderr
    done = qconvert("inspect", base, *adapter, "--json")
    assert json.loads(done.stdout)["source"] == "base+a"
    text = ("--data", tmp_path / "t.txt", "--tokens", 512, "--window", 64, "--json")
    costs = []
    for more in (adapter, ()):
        done = qconvert("evaluate", tmp_path / "x.gguf", "--reference", base, *text, *more)
        assert done.returncode == 0, done.stderr
        costs.append(json.loads(done.stdout)["files"][0]["kl_divergence"]["mean"])
    assert costs[0] < 0.5 * costs[1]


def test_a_merged_original_answers_and_is_reported_on(qconvert, model, tmp_path):
    base, adapter = model_with_one_file(model, tmp_path), ("--adapter", tmp_path / "a")
    write_adapter(base, tmp_path / "a", [NAME, "model.layers.0.self_attn.v_proj"])
    (tmp_path / "p.txt").write_text("Which way does the wind blow?\n")
    (tmp_path / "t.txt").write_text(" ".join(map(str, range(3000))))
    done = qconvert(
        *("report", base, *adapter, "-t", "q8_0", "-o", tmp_path / "r", "--no-speed"),
        *("--no-sensitivity", "--data", tmp_path / "t.txt", "--tokens", 512, "--window", 64),
        *("--prompts", tmp_path / "p.txt", "--answer-tokens", 4, "--json"),
    )
    assert done.returncode == 0, done.stderr
    said = json.loads(done.stdout)
    assert said["model"] == "base+a"
    assert not [line for line in said["notices"] if "answers" in line]
    assert f"--adapter {tmp_path / 'a'}" in said["files"][0]["command"]
    assert said["files"][0]["kl_divergence"]["mean"] < 0.01
    made = tmp_path / "merged.gguf"
    done = qconvert("export", base, *adapter, "--dtype", "f32", "-o", made)
    assert done.returncode == 0, done.stderr
    short = ("--prompts", tmp_path / "p.txt", "--max-tokens", 12, "--temperature", 0, "--json")
    done = qconvert("compare", made, base, "--reference", base, *adapter, *short)
    assert done.returncode == 0, done.stderr
    found = {one["path"]: one for one in json.loads(done.stdout)["files"]}
    assert list(found) == ["base+a", str(made), str(base)]
    common = {path: one["agreement"]["greedy"]["tokens"] for path, one in found.items()}
    assert common[str(made)] > common[str(base)]
    done = qconvert("compare", made, *adapter)
    assert (done.returncode, "add --reference" in done.stderr) == (2, True)


NAME = "model.layers.0.mlp.up_proj"


def model_with_one_file(model: Path, folder: Path) -> Path:
    """The model without shards."""
    from qconvert.checkpoint import open_checkpoint
    from qconvert.machine.watcher import Silent
    from qconvert.run.transform import transform

    transform(open_checkpoint(str(model)), folder / "base", threads=1, watcher=Silent())
    return folder / "base"


def test_a_directory_that_holds_both_is_read_as_it_is_told(qconvert, model, tmp_path: Path):
    base = model_with_one_file(model, tmp_path)
    write_adapter(base, tmp_path / "a", [NAME])
    shutil.copytree(base, tmp_path / "both")
    for file in (tmp_path / "a").iterdir():
        (tmp_path / "both" / file.name).write_bytes(file.read_bytes())
    both = tmp_path / "both"
    (tmp_path / "t.txt").write_text(" ".join(map(str, range(3000))))
    text = ("--data", tmp_path / "t.txt", "--tokens", 512, "--window", 64)
    commands = {
        "inspect": (),
        "quantize": ("-t", "q8_0", "--no-vocabulary", "-o", tmp_path / "x.gguf"),
        "export": ("--no-vocabulary", "-o", tmp_path / "y.gguf"),
        "calibrate": (*text, "-o", tmp_path / "c.safetensors"),
        "evaluate": ("--reference", both, *text),
    }
    done = qconvert("inspect", both)
    assert done.returncode == 1
    assert f"--adapter {both} merges it into the weights beside it" in done.stderr
    for command, more in commands.items():
        source = tmp_path / "x.gguf" if command == "evaluate" else both
        done = qconvert(command, source, *more, "--adapter", both)
        assert done.returncode == 0, done.stderr
    asked = ("export", base, "--adapter", tmp_path / "a", "--no-vocabulary")
    assert qconvert(*asked, "-o", tmp_path / "apart.gguf").returncode == 0
    found, wanted = (gguf_values(tmp_path / name) for name in ("y.gguf", "apart.gguf"))
    assert all(np.array_equal(found[name], wanted[name]) for name in wanted)
    for source in (both, tmp_path / "a"):
        done = qconvert("export", source, "--base", both, "-o", tmp_path / "lora.gguf", "--force")
        assert done.returncode == 0, done.stderr


def gguf_values(path: Path) -> dict[str, np.ndarray]:
    from gguf import GGUFReader

    return {tensor.name: np.array(tensor.data) for tensor in GGUFReader(path).tensors}


def test_an_adapter_of_mlx_is_named(qconvert, tmp_path: Path):
    save_model("llama", tmp_path / "m")
    (tmp_path / "a").mkdir()
    (tmp_path / "a/adapter_config.json").write_text(json.dumps({"fine_tune_type": "lora"}))
    done = qconvert("inspect", tmp_path / "m", "--adapter", tmp_path / "a")
    assert "is an adapter of MLX" in done.stderr
    assert "mlx_lm.fuse" in done.stderr


def test_what_llama_cpp_does_not_take_is_said(qconvert, tmp_path: Path):
    save_model("llama", tmp_path / "m")
    write_adapter(tmp_path / "m", tmp_path / "a", [NAME])
    file = tmp_path / "a/adapter_model.safetensors"
    tensors = load_file(file)
    save_file(tensors | {f"{ROOT}{NAME}.lora_magnitude_vector": torch.ones(416)}, file)
    done = qconvert("export", tmp_path / "a", "-o", tmp_path / "x.gguf")
    assert "is DoRA, which llama.cpp does not take" in done.stderr
    assert "--adapter DIR" in done.stderr
    save_file(tensors | {f"{ROOT}lm_head.weight": torch.ones(323, 288)}, file)
    done = qconvert("export", tmp_path / "a", "-o", tmp_path / "x.gguf")
    assert "has tensors of its own" in done.stderr
    save_file(tensors, file)
    config = json.loads((tmp_path / "a/adapter_config.json").read_text())
    (tmp_path / "a/adapter_config.json").write_text(json.dumps(config | {"lora_alpha": 0}))
    done = qconvert("export", tmp_path / "a", "-o", tmp_path / "x.gguf")
    assert "adds nothing: its lora_alpha is 0" in done.stderr
    assert not (tmp_path / "x.gguf").exists()
    done = qconvert("quantize", tmp_path / "a", "-t", "q8_0", "-o", tmp_path / "x.gguf")
    assert "name its base model, and the adapter with --adapter" in done.stderr
