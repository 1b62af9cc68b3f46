"""`config.json` of directories for MLX, and what stands beside it."""

import json
from pathlib import Path
from typing import Any

import pytest
from common import wrap_gemma3
from compressed_models import config_of, headers, plan_model, quantize_model
from mlx_models import FAMILIES, save_wide


def test_the_types_that_most_weights_have_stand_above(tmp_path):
    save_wide("llama", tmp_path / "m", num_hidden_layers=2)
    layer = "model.layers.1.self_attn.k_proj"
    overrides = (("*.mlp.*", "mlx6"), (f"{layer}.weight", "mlx-nvfp4"))
    config = config_of(plan_model(tmp_path / "m", "mlx3", overrides=overrides))
    quantization = config["quantization"]
    assert quantization == config["quantization_config"]
    assert {key: quantization.pop(key) for key in ("group_size", "bits", "mode")} == {
        "group_size": 64,
        "bits": 6,
        "mode": "affine",
    }
    assert quantization[layer] == {"group_size": 16, "bits": 4, "mode": "nvfp4"}
    assert quantization["model.layers.0.self_attn.k_proj"] == {"group_size": 64, "bits": 3}
    assert not [name for name in quantization if ".mlp." in name]


def test_a_model_that_is_not_tied_says_so(tmp_path):
    save_wide("qwen2", tmp_path / "m", num_hidden_layers=1)
    place = tmp_path / "m" / "config.json"
    config = json.loads(place.read_text())
    del config["tie_word_embeddings"]
    place.write_text(json.dumps(config))
    assert config_of(plan_model(tmp_path / "m", "mlx4"))["tie_word_embeddings"] is False


def test_a_multimodal_models_text_settings_are_stated_where_they_are_read(tmp_path):
    save_wide("gemma3", tmp_path / "m")
    wrap_gemma3(tmp_path / "m")
    config = config_of(plan_model(tmp_path / "m", "mlx4"))
    assert (config["model_type"], config["vocab_size"]) == ("gemma3", 323)
    assert config["text_config"]["sliding_window_pattern"] == 6
    assert config["text_config"]["rope_scaling"]["factor"] == 8.0
    assert "rope_parameters" not in config["text_config"]


def test_files_say_whose_they_are(tmp_path):
    save_wide("llama", tmp_path / "m", num_hidden_layers=1)
    (tmp_path / "m" / "tokenizer_config.json").write_text("{}")
    quantize_model(tmp_path / "m", tmp_path / "out", "mlx4")
    assert headers(tmp_path / "out")["format"] == "mlx"
    card = (tmp_path / "out" / "README.md").read_text()
    assert 'library_name: "mlx"' in card
    assert 'tags: ["mlx", "qconvert"]' in card
    assert (tmp_path / "out" / "tokenizer_config.json").read_text() == "{}"


@pytest.mark.parametrize("window", [True, False])
def test_a_window_that_is_not_heeded_is_named(window: bool, tmp_path: Path):
    changes: dict[str, Any] = {"sliding_window": 64} if window else {}
    save_wide("mistral", tmp_path / "m", num_hidden_layers=1, **changes)
    notices = plan_model(tmp_path / "m", "mlx4").notices
    assert any("window of 64 tokens is not kept" in line for line in notices) == window


@pytest.mark.parametrize("family", FAMILIES)
def test_every_family_can_be_planned(family, tmp_path):
    layers = {"n_layer": 1} if family == "gpt2" else {"num_hidden_layers": 6}
    save_wide(family, tmp_path / "m", **layers)
    plan = plan_model(tmp_path / "m", "mlx4")
    names = [slot.name for slot in plan.target.slots]
    assert len(names) == len(set(names))
    assert sum(name.endswith(".biases") for name in names) == sum(
        tensor.format.startswith("mlx") for tensor in plan.tensors
    )
