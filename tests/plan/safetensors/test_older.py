"""Directories in the layouts of GPTQ and AWQ: what others read from them, and what they say."""

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from common import random_tokens, save_model
from compressed_models import outputs, plan_model, quantize_model
from quantized_sources import awq_by_compressed_tensors

from qconvert.checkpoint import open_checkpoint, read_rows
from qconvert.errors import UsageError


def numbers(path: Path) -> dict[str, np.ndarray]:
    """The weights that a directory's codes stand for, by the reader of such directories."""
    tensors = open_checkpoint(str(path)).tensors
    return {name: read_rows(one, 0, one.rows) for name, one in tensors.items() if one.codes}


def settings(path: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((path / "config.json").read_text())["quantization_config"]
    return found


@pytest.mark.parametrize(
    ("name", "same", "options"),
    [
        ("gptq4", "w4a16", {"group_size": 32}),
        ("gptq3", "w3a16", {"group_size": "channel"}),
        ("gptq8", "w8a16", {"group_size": 32, "asymmetric": True}),
        ("awq4", "w4a16", {"group_size": 32}),
    ],
)
def test_the_weights_are_those_of_packed_integers(
    name: str, same: str, options: dict[str, Any], tmp_path: Path
) -> None:
    model = save_model("qwen3", tmp_path / "model", wide=True, num_hidden_layers=1)
    model.to(torch.bfloat16).save_pretrained(tmp_path / "model")
    quantize_model(tmp_path / "model", tmp_path / "one", name, **options)
    zeros = {"asymmetric": True} if name == "awq4" else {}
    quantize_model(tmp_path / "model", tmp_path / "other", same, **options, **zeros)
    made, expected = numbers(tmp_path / "one"), numbers(tmp_path / "other")
    assert len(made) == 7
    assert set(made) == set(expected)
    for weight, values in expected.items():
        assert np.array_equal(made[weight], values)


def test_compressed_tensors_converts_what_awq4_makes(tmp_path: Path) -> None:
    save_model("llama", tmp_path / "model", wide=True, num_hidden_layers=1)
    quantize_model(tmp_path / "model", tmp_path / "out", "awq4", group_size=32)
    theirs, made = awq_by_compressed_tensors(tmp_path / "out", 32), numbers(tmp_path / "out")
    assert set(theirs) == set(made)
    assert all(np.array_equal(theirs[name], made[name]) for name in made)


def test_mlx_lm_runs_what_awq4_makes(tmp_path: Path) -> None:
    mx, utils = pytest.importorskip("mlx.core"), pytest.importorskip("mlx_lm.utils")
    rope = {"rope_type": "default", "rope_theta": 10000.0}
    model = save_model("llama", tmp_path / "model", wide=True, rope_parameters=rope)
    quantize_model(tmp_path / "model", tmp_path / "out", "awq4", group_size=32)
    loaded = utils.load_model(tmp_path / "out")[0]
    tokens = random_tokens()
    computed = np.array(loaded(mx.array([tokens])).astype(mx.float32))[0]
    state = model.state_dict()
    for name, values in numbers(tmp_path / "out").items():
        state[name].copy_(torch.from_numpy(values))
    expected = outputs(model.float().eval(), tokens)
    assert np.abs(computed - expected).max() < 0.02 * np.abs(expected).max()  # it runs in float16


def test_one_size_of_groups_for_all_layers(tmp_path: Path) -> None:
    save_model("llama", tmp_path / "model", wide=True, intermediate_size=320)
    plan = plan_model(tmp_path / "model", "gptq4")
    said = json.loads(plan.target.files["config.json"])["quantization_config"]
    assert said["group_size"] == 64
    assert {tensor.format for tensor in plan.tensors if tensor.reason} == {"gptq4 in groups of 64"}


def test_what_is_kept_is_named(tmp_path: Path) -> None:
    save_model("llama", tmp_path / "model", wide=True, num_hidden_layers=2)
    kept = {"keep": ("model.layers.0.self_attn.*",)}
    quantize_model(tmp_path / "model", tmp_path / "a", "awq4", **kept)
    quantize_model(tmp_path / "model", tmp_path / "g", "gptq4", **kept)
    names = settings(tmp_path / "a")["modules_to_not_convert"]
    assert "model.layers.0.self_attn.o_proj" in names
    assert "model.layers.0.self_attn.qkv_proj" in names
    assert not any("layers.1" in name for name in names)
    dynamic = settings(tmp_path / "g")["dynamic"]
    patterns = [re.compile(pattern.removeprefix("-:")) for pattern in dynamic]

    def is_kept(name: str) -> bool:
        return any(pattern.match(name) for pattern in patterns)

    assert all(pattern.startswith("-:") for pattern in dynamic)
    assert is_kept("model.layers.0.self_attn.qkv_proj")
    assert is_kept("model.layers.0.self_attn.o_proj")
    assert not is_kept("model.layers.1.self_attn.qkv_proj")
    assert not is_kept("model.layers.0.mlp.down_proj")


def test_other_types_beside_them_are_refused(tmp_path: Path) -> None:
    save_model("llama", tmp_path / "model", wide=True)
    with pytest.raises(UsageError, match="one way"):
        plan_model(tmp_path / "model", "gptq4", overrides=(("*.down_proj.weight", "w8a16"),))
