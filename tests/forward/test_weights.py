"""Parameters come from every kind of checkpoint, and what is missing or misshapen is told."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from common import convert_model, save_model, tiny_model, wrap_gemma3
from safetensors.torch import load_file, save_file

from qconvert.checkpoint import open_checkpoint
from qconvert.errors import PlanError, UnsupportedError
from qconvert.forward.skeleton import build_skeleton
from qconvert.forward.weights import Parameters, find_parameters, read_parameter, read_rows_of
from qconvert.model.open import open_model


def parameters(path: Path, dtype: str = "float32") -> dict[str, Any]:
    """All parameters of transformers' model but the two large tables."""
    source = find_parameters(open_model(open_checkpoint(str(path))))
    skeleton = build_skeleton(source)
    rest = skeleton.parameters_beside_blocks()
    inside = {
        f"{skeleton.blocks_name}.{index}.{name}": parameter
        for index, block in enumerate(skeleton.blocks)
        for name, parameter in block.named_parameters()
    }
    return {
        name: read_parameter(source, name, tuple(parameter.shape), dtype)
        for name, parameter in (rest | inside).items()
    }


def check(path: Path, model: Any, exact: bool = True) -> int:
    """Every parameter is the model's own."""
    import torch

    expected = dict(model.named_parameters())
    found = parameters(path)
    for name, values in found.items():
        if exact:
            assert torch.equal(values, expected[name]), name
        else:
            assert torch.allclose(values, expected[name], rtol=1e-6, atol=1e-7), name
    return len(found)


FAMILIES = ("llama", "mixtral", "qwen3_moe", "gemma3", "phi3", "gpt2", "bert")


@pytest.mark.parametrize("family", FAMILIES)
def test_a_directory_gives_the_models_own_parameters(family: str, tmp_path: Path):
    model = save_model(family, tmp_path, max_shard_size="1MB")
    assert check(tmp_path, model) > 12


@pytest.mark.parametrize("family", FAMILIES)
def test_a_gguf_file_gives_them_back(family: str, tmp_path: Path):
    model = save_model(family, tmp_path / "m")
    convert_model(tmp_path / "m", tmp_path / "m.gguf", "f32")
    # Gemma's norms went through weight + 1 - 1.
    assert check(tmp_path / "m.gguf", model, exact=family != "gemma3") > 12


@pytest.mark.parametrize("family", ["mixtral", "qwen3_moe"])
def test_experts_are_read_fused_and_one_by_one(family: str, tmp_path: Path):
    model = save_model(family, tmp_path / "single")
    stored = load_file(tmp_path / "single" / "model.safetensors")
    assert any(".experts.0." in name for name in stored)
    fused = {k: v.contiguous() for k, v in model.state_dict().items()}
    assert any(name.endswith("experts.gate_up_proj") for name in fused)
    (tmp_path / "fused").mkdir()
    config = (tmp_path / "single" / "config.json").read_text()
    (tmp_path / "fused" / "config.json").write_text(config)
    save_file(fused, tmp_path / "fused" / "model.safetensors")
    for name in ("single", "fused"):
        check(tmp_path / name, model)


def test_old_names_of_berts_norms_are_known(tmp_path: Path):
    model = save_model("bert", tmp_path)
    stored = load_file(tmp_path / "model.safetensors")
    renamed = {
        name.replace("LayerNorm.weight", "LayerNorm.gamma").replace(
            "LayerNorm.bias", "LayerNorm.beta"
        ): values
        for name, values in stored.items()
    }
    assert renamed.keys() != stored.keys()
    save_file(renamed, tmp_path / "model.safetensors")
    check(tmp_path, model)


def test_a_pickle_is_read(tmp_path: Path):
    import torch

    model = save_model("qwen2", tmp_path)
    stored = load_file(tmp_path / "model.safetensors")
    (tmp_path / "model.safetensors").unlink()
    torch.save(stored, tmp_path / "pytorch_model.bin")
    check(tmp_path, model)


def test_fp8_weights_are_scaled(tmp_path: Path):
    import torch

    model = save_model("qwen3", tmp_path)
    stored = load_file(tmp_path / "model.safetensors")
    name = "model.layers.0.mlp.up_proj.weight"
    scale = torch.rand(4, 3) + 0.5
    small = stored[name].to(torch.float8_e4m3fn)
    stored[name], stored[name + "_scale_inv"] = small, scale
    save_file(stored, tmp_path / "model.safetensors")
    config = json.loads((tmp_path / "config.json").read_text())
    config["quantization_config"] = {"quant_method": "fp8", "weight_block_size": [128, 128]}
    (tmp_path / "config.json").write_text(json.dumps(config))
    found = parameters(tmp_path)
    factors = scale.repeat_interleave(128, 0).repeat_interleave(128, 1)
    rows, columns = small.shape
    assert torch.equal(found[name], small.float() * factors[:rows, :columns])
    other = "model.layers.0.mlp.gate_proj.weight"
    assert torch.equal(found[other], dict(model.named_parameters())[other])


def test_a_multimodal_model_is_its_text_model(tmp_path: Path):
    model = save_model("gemma3", tmp_path)
    stored = load_file(tmp_path / "model.safetensors")
    wrapped = {"language_model." + name: values for name, values in stored.items()} | {
        "vision_tower.patch.weight": stored["model.norm.weight"].clone()
    }
    save_file(wrapped, tmp_path / "model.safetensors")
    wrap_gemma3(tmp_path)
    assert check(tmp_path, model) > 12


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_parameters_are_rounded_to_the_runs_type(dtype: str, tmp_path: Path):
    import torch

    model = save_model("qwen3", tmp_path)
    expected = dict(model.named_parameters())
    for name, values in parameters(tmp_path, dtype).items():
        assert torch.equal(values, expected[name].to(getattr(torch, dtype))), name


def test_rows_of_the_embedding_are_read_alone(tmp_path: Path):
    model = save_model("qwen3", tmp_path)
    source = find_parameters(open_model(open_checkpoint(str(tmp_path))))
    rows = [0, 3, 4, 5, 9, 322]
    found = read_rows_of(source, "model.embed_tokens.weight", np.array(rows), "float32")
    assert np.array_equal(found.numpy(), model.model.embed_tokens.weight.detach().numpy()[rows])
    with pytest.raises(PlanError, match="token 323"):
        read_rows_of(source, "model.embed_tokens.weight", [323], "float32")


def with_config(source: Parameters, config: dict) -> Parameters:
    checkpoint = replace(source.model.checkpoint, config=config)
    return replace(source, model=replace(source.model, checkpoint=checkpoint))


def test_building_a_model_takes_no_memory_for_its_weights(tmp_path: Path):
    save_model("qwen3", tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    source = find_parameters(open_model(open_checkpoint(str(tmp_path))))
    huge = {**config, "hidden_size": 16384, "vocab_size": 10**6, "intermediate_size": 10**6}
    skeleton = build_skeleton(with_config(source, huge))
    large = [p for p in skeleton.model.parameters() if p.numel() > 10**6]
    assert len(large) > 10
    assert all(parameter.is_meta for parameter in large)


def test_a_missing_tensor_is_named(tmp_path: Path):
    save_model("qwen3", tmp_path)
    stored = load_file(tmp_path / "model.safetensors")
    del stored["model.layers.1.mlp.up_proj.weight"]
    save_file(stored, tmp_path / "model.safetensors")
    with pytest.raises(PlanError, match=r"no tensor model\.layers\.1\.mlp\.up_proj\.weight"):
        find_parameters(open_model(open_checkpoint(str(tmp_path))))


def test_a_parameter_of_another_shape_is_named(tmp_path: Path):
    save_model("qwen3", tmp_path)
    source = find_parameters(open_model(open_checkpoint(str(tmp_path))))
    name = "model.layers.1.mlp.up_proj.weight"
    with pytest.raises(PlanError, match=r"up_proj.*\[416, 288\].*\[416, 300\]"):
        read_parameter(source, name, (416, 300), "float32")
    with pytest.raises(PlanError, match=r"no tensor model\.layers\.7"):
        read_parameter(source, "model.layers.7.x.weight", (3, 3), "float32")


def test_what_transformers_cannot_build_is_told_in_one_line(tmp_path: Path):
    save_model("qwen3", tmp_path)
    source = find_parameters(open_model(open_checkpoint(str(tmp_path))))
    broken = {**source.model.config, "hidden_act": "no_such_function"}
    with pytest.raises(UnsupportedError, match="no_such_function") as error:
        build_skeleton(with_config(source, broken))
    assert "\n" not in error.value.message


def test_tiny_models_are_the_same_at_every_call():
    import torch

    one, other = tiny_model("qwen3"), tiny_model("qwen3")
    assert all(torch.equal(a, b) for a, b in zip(one.parameters(), other.parameters(), strict=True))
