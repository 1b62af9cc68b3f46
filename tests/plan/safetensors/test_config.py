"""`quantization_config` is what the compressed-tensors package itself would read and write."""

import json
import re
from pathlib import Path

import pytest
import torch
from common import save_model
from compressed_models import choices_of, config_of, plan_model, quantize_model
from safetensors.torch import load_file, save_file

from qconvert.plan.safetensors.config import patterns
from qconvert.plan.types import Plan

PRESETS = {"w8a8": "W8A8", "w8a16": "W8A16", "w4a16": "W4A16", "fp8": "FP8_DYNAMIC"}
PRESETS |= {"nvfp4a16": "NVFP4A16", "nvfp4a4": "NVFP4", "mxfp4a16": "MXFP4A16", "mxfp4a4": "MXFP4"}
PRESETS |= {"w4a8": "W4A8", "w4afp8": "W4AFP8"}


def validated(plan: Plan):
    from compressed_tensors.quantization import QuantizationConfig

    stored = json.loads(json.dumps(config_of(plan)["quantization_config"]))
    return QuantizationConfig.model_validate(stored)


@pytest.fixture(scope="module")
def dense(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("dense")
    save_model("qwen3", path, wide=True, num_hidden_layers=2)
    return path


@pytest.mark.parametrize("type_", PRESETS)
def test_groups_are_the_presets_of_compressed_tensors(dense: Path, type_: str) -> None:
    from compressed_tensors.quantization import preset_name_to_scheme

    options = {"group_size": 128} if type_ == "w8a16" else {}
    config = validated(plan_model(dense, type_, **options))
    preset = preset_name_to_scheme(PRESETS[type_], ["Linear"])
    (group,) = config.config_groups.values()
    assert group.model_dump() == {**preset.model_dump(), "format": group.format}
    assert group.targets == ["Linear"]
    assert config.format == group.format


def test_float8_blocks_are_a_preset_too(dense: Path) -> None:
    from compressed_tensors.quantization import preset_name_to_scheme

    config = validated(plan_model(dense, "fp8", strategy="block"))
    blocks = next(g for g in config.config_groups.values() if g.weights.strategy == "block")
    preset = preset_name_to_scheme("FP8_BLOCK", ["Linear"])
    assert blocks.weights == preset.weights
    assert blocks.input_activations == preset.input_activations


def test_the_rest_of_the_configuration_stays(dense: Path) -> None:
    source = json.loads((dense / "config.json").read_text())
    config = config_of(plan_model(dense, "w8a8"))
    quantization = config.pop("quantization_config")
    assert config == source
    assert set(quantization) == {
        "config_groups",
        "format",
        "global_compression_ratio",
        "ignore",
        "kv_cache_scheme",
        "quant_method",
        "quantization_status",
        "sparsity_config",
        "transform_config",
        "version",
    }
    assert quantization["quantization_status"] == "compressed"


def test_every_layer_has_the_group_that_its_tensors_are_of(dense: Path) -> None:
    """By the package's own matching, as transformers and vLLM use it."""
    from compressed_tensors.utils.match import is_match

    overrides = (("*.1.*", "w4a16"), ("*.0.mlp.down_proj.weight", "w8a16"), ("lm_head*", "fp8"))
    plan = plan_model(dense, "w8a8", overrides=overrides, keep=("*.1.self_attn.o_proj.weight",))
    config = validated(plan)
    assert config.format == "mixed-precision"
    with torch.device("meta"):
        layer = torch.nn.Linear(4, 4)
    for choice in choices_of(plan):
        module = choice.weight.name.removesuffix(".weight")
        for name in (module, module.removeprefix("model.")):
            found = [
                group
                for group in config.config_groups.values()
                if is_match(name, layer, group.targets, config.ignore)
            ]
            if choice.scheme is None:
                assert not found or "norm" in name or "embed" in name
            else:
                assert [group.format for group in found] == [choice.scheme.weights.layout]
                assert found[0].weights.num_bits == choice.scheme.weights.bits


def test_groups_hold_under_the_names_of_other_classes(dense: Path) -> None:
    (expression,) = patterns(["model.layers.1.mlp.up_proj"])
    matches = re.compile(expression.removeprefix("re:")).match
    for root in ("", "model.", "model.language_model.", "language_model.model."):
        assert matches(f"{root}layers.1.mlp.up_proj")
        assert not matches(f"{root}layers.11.mlp.up_proj")
        assert not matches(f"{root}layers.1.mlp.up_proj.more")
        assert not matches(f"{root}sublayers.1.mlp.up_proj")


def test_expressions_match_what_they_are_made_of_and_nothing_else() -> None:
    modules = [
        f"model.layers.{block}.mlp.experts.{expert}.{part}"
        for block in (0, 2, 10)
        for expert in range(3)
        for part in ("up_proj", "down_proj")
        if (block, expert, part) != (10, 1, "up_proj")
    ]
    found = [re.compile(text.removeprefix("re:")).match for text in patterns(modules)]
    assert len(found) == 3
    for block in range(12):
        for expert in range(4):
            for part in ("up_proj", "down_proj", "gate_proj"):
                name = f"model.layers.{block}.mlp.experts.{expert}.{part}"
                assert any(match(name) for match in found) == (name in modules), name


def test_kept_matrices_are_ignored(tmp_path: Path) -> None:
    save_model("mixtral", tmp_path)
    ignored = config_of(plan_model(tmp_path, "w8a8"))["quantization_config"]["ignore"]
    assert ignored[0] == "lm_head"
    gate = "model.layers.1.block_sparse_moe.gate"
    assert any(re.match(text.removeprefix("re:"), gate) for text in ignored)
    assert len(ignored) == 2


def test_a_vision_tower_stays_out_of_it(tmp_path: Path) -> None:
    """Its layers are called as those of the language model are."""
    from compressed_tensors.utils.match import is_match

    save_model("gemma3", tmp_path)
    weights = load_file(tmp_path / "model.safetensors")
    tower = "vision_tower.vision_model.encoder.layers.0.self_attn.q_proj"
    weights = {f"language_model.{name}": weight for name, weight in weights.items()}
    weights[f"{tower}.weight"] = torch.zeros(8, 8)
    save_file(weights, tmp_path / "model.safetensors")
    config = json.loads((tmp_path / "config.json").read_text())
    config = {"architectures": ["Gemma3ForConditionalGeneration"], "text_config": config}
    (tmp_path / "config.json").write_text(json.dumps(config))
    found = validated(plan_model(tmp_path, "w4a16"))
    targets = [target for group in found.config_groups.values() for target in group.targets]
    layer = torch.nn.Linear(4, 4)
    for name in (tower, f"model.{tower}", "model.vision_tower.layers.1.self_attn.q_proj"):
        assert not is_match(name, layer, targets, found.ignore)
    for root in ("language_model.model.", "model.language_model."):
        assert is_match(f"{root}layers.0.self_attn.q_proj", layer, targets, found.ignore)


def test_a_tied_output_is_ignored_and_not_written(tmp_path: Path) -> None:
    save_model("qwen3", tmp_path / "model", tied=True)
    plan = quantize_model(tmp_path / "model", tmp_path / "out", "w8a8")
    assert config_of(plan)["quantization_config"]["ignore"] == ["lm_head"]
    assert config_of(plan)["tie_word_embeddings"] is True
    assert not any("lm_head" in slot.name for slot in plan.target.slots)
    assert any("output projection too" in notice for notice in plan.notices)


def test_pooling_layers_that_no_file_holds_are_ignored(tmp_path: Path) -> None:
    save_model("bert", tmp_path)
    ignored = config_of(plan_model(tmp_path, "w8a8"))["quantization_config"]["ignore"]
    assert [bool(re.match(text.removeprefix("re:"), "bert.pooler.dense")) for text in ignored] == [
        True
    ]


def test_float4_of_a_wider_model_is_run_in_bfloat16(dense: Path) -> None:
    plan = plan_model(dense, "nvfp4a16")
    assert config_of(plan)["dtype"] == "bfloat16"
    assert {slot.dtype for slot in plan.target.slots if slot.name.endswith("norm.weight")} == {
        "BF16"
    }
    assert any("bfloat16" in notice for notice in plan.notices)
