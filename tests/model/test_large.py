"""Families with mixed layers: llama.cpp computes from their files what transformers does."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from common import (
    convert_model,
    correlation,
    llama_logits,
    random_tokens,
    torch_logits,
    worst_difference,
)
from gguf import GGUFReader
from large_models import LARGE, Converted, save_large
from observed_inputs import calibrate
from quantized_sources import mxfp4_rows, nibbles
from safetensors.torch import load_file, save_file

from qconvert.checkpoint import open_checkpoint
from qconvert.errors import PlanError, UnsupportedError
from qconvert.model.families import find_family
from qconvert.model.families.parts.common import text_config
from qconvert.model.open import open_model
from qconvert.plan.make import make_plan
from qconvert.plan.recipe import Recipe

pytest.importorskip("llama_cpp")

Large = Callable[[str], Converted]
PUBLISHED = {
    "head_dim": 64,
    "max_position_embeddings": 131_072,
    "rope_parameters": {
        "rope_type": "yarn",
        "rope_theta": 150_000.0,
        "factor": 32.0,
        "beta_fast": 32.0,
        "beta_slow": 1.0,
        "original_max_position_embeddings": 4096,
    },
}
"""gpt-oss's heads."""


def off_by(model: Any, directory: Path) -> float:
    """How far llama.cpp is from transformers, as a part of the logits' range."""
    convert_model(directory, directory.with_name("f32.gguf"), "f32")
    tokens = random_tokens()
    expected = torch_logits(model, tokens)
    return worst_difference(expected, llama_logits(directory.with_name("f32.gguf"), tokens))


def change_config(directory: Path, change: Callable[[dict[str, Any]], dict[str, Any]]) -> None:
    place = directory / "config.json"
    place.write_text(json.dumps(change(json.loads(place.read_text()))))


@pytest.mark.parametrize("family", LARGE)
def test_the_logits_are_those_of_transformers(family: str, large: Large) -> None:
    made, tokens = large(family), random_tokens()
    assert worst_difference(made.logits, llama_logits(made.file("f32"), tokens)) <= 1e-3
    assert correlation(made.logits, llama_logits(made.file("q8_0"), tokens)) > 0.999


def test_keys_that_nothing_uses_may_be_stored(large: Large, tmp_path: Path) -> None:
    """Published checkpoints have them in layers that take those of others."""
    made = large("gemma3n")
    (tmp_path / "model").mkdir()
    (tmp_path / "model/config.json").write_bytes((made.path / "config.json").read_bytes())
    tensors = load_file(made.path / "model.safetensors")
    for name, value in list(tensors.items()):
        if "layers.3.self_attn" in name and name.split(".")[-2] in ("k_proj", "v_proj", "k_norm"):
            tensors |= {name.replace("layers.3", f"layers.{i}"): value + 1 for i in range(20, 25)}
    save_file(tensors, tmp_path / "model/model.safetensors", {"format": "pt"})
    convert_model(tmp_path / "model", tmp_path / "f32.gguf", "f32")
    logits = llama_logits(tmp_path / "f32.gguf", random_tokens())
    assert np.array_equal(logits, llama_logits(made.file("f32"), random_tokens()))
    found = {tensor.name: tensor.data for tensor in GGUFReader(tmp_path / "f32.gguf").tensors}
    blank = {tensor.name: tensor.data for tensor in GGUFReader(made.file("f32")).tensors}
    assert np.array_equal(found["blk.20.attn_k.weight"], found["blk.3.attn_k.weight"] + 1)
    assert not blank["blk.20.attn_k.weight"].any()


def test_the_gap_of_yarn_without_truncation_is_small_and_said(tmp_path: Path) -> None:
    """llama.cpp always rounds the bounds; transformers does where `truncate` says so."""
    off = {}
    for truncate in (True, False):
        path = tmp_path / str(truncate) / "model"
        rope = {**PUBLISHED["rope_parameters"], "truncate": truncate}
        model = save_large("gpt_oss", path, **{**PUBLISHED, "rope_parameters": rope})
        off[truncate] = off_by(model, path)
        notices = open_model(open_checkpoint(str(path))).notices
        assert any("without truncation" in notice for notice in notices) is not truncate
    assert off[True] <= 1e-5
    assert 1e-4 < off[False] < 1e-2


def test_windows_of_gpt_oss_may_fall_elsewhere(tmp_path: Path) -> None:
    kinds = ["full_attention", "sliding_attention", "sliding_attention"]
    model = save_large("gpt_oss", tmp_path / "model", layer_types=kinds)
    assert off_by(model, tmp_path / "model") <= 1e-3


def test_the_codes_of_experts_move_as_they_are(tmp_path: Path) -> None:
    save_large("gpt_oss", tmp_path / "model")
    weights = tmp_path / "model" / "model.safetensors"
    tensors, codes = {}, {}
    for name, tensor in load_file(weights).items():
        if not name.endswith(("gate_up_proj", "down_proj")):
            tensors[name] = tensor
            continue
        whole = tensor.transpose(1, 2).contiguous().double().numpy()
        numbers, exponents, _ = mxfp4_rows(whole)
        codes[name] = numbers
        blocks = nibbles(numbers).reshape(*exponents.shape, 16).contiguous()
        tensors |= {f"{name}_blocks": blocks, f"{name}_scales": as_tensor(exponents)}
    save_file(tensors, weights, {"format": "pt"})
    settings = {"quantization_config": {"quant_method": "mxfp4"}}
    change_config(tmp_path / "model", lambda config: config | settings)

    plan = convert_model(tmp_path / "model", tmp_path / "out.gguf", "mxfp4_moe")
    made = {tensor.name: tensor for tensor in GGUFReader(tmp_path / "out.gguf").tensors}
    assert sum(tensor.coding.moved for tensor in plan.tensors) == 9
    fused = codes["model.layers.1.mlp.experts.gate_up_proj"]
    for name, expected in {"gate": fused[:, ::2], "up": fused[:, 1::2]}.items():
        stored = made[f"blk.1.ffn_{name}_exps.weight"]
        assert stored.tensor_type.name == "MXFP4"
        packed = stored.data.reshape(*expected.shape[:2], -1, 17)[..., 1:]
        found = np.concatenate([packed & 15, packed >> 4], axis=-1).reshape(expected.shape)
        assert np.array_equal(found, expected)


def as_tensor(array: np.ndarray) -> Any:
    import torch

    return torch.from_numpy(array)


@pytest.mark.parametrize(
    ("family", "tower"),
    [
        ("qwen3_5", "visual"),
        ("qwen3_5_moe", "visual"),
        ("gemma4_moe", "vision_tower"),
        ("gemma3n", "vision_tower"),
    ],
)
def test_the_language_model_of_a_multimodal_one_is_taken(
    family: str, tower: str, large: Large, tmp_path: Path
) -> None:
    """With the names and the nesting of published checkpoints, a tower, and layers that foretell
    further tokens."""
    made = large(family)
    config = json.loads((made.path / "config.json").read_text())
    outer = config.pop("architectures")[0].replace("ForCausalLM", "ForConditionalGeneration")
    kind = config["model_type"].removesuffix("_text")
    whole = {"architectures": [outer], "model_type": kind, "text_config": config}
    tensors = {
        name.replace("model.", "model.language_model.", 1): tensor
        for name, tensor in load_file(made.path / "model.safetensors").items()
    }
    tensors[f"model.{tower}.blocks.0.attn.qkv.weight"] = as_tensor(np.ones((3, 5), np.float32))
    tensors["mtp.fc.weight"] = as_tensor(np.ones((3, 5), np.float32))
    (tmp_path / "model").mkdir()
    save_file(tensors, tmp_path / "model" / "model.safetensors", {"format": "pt"})
    (tmp_path / "model" / "config.json").write_text(json.dumps(whole))

    plan = convert_model(tmp_path / "model", tmp_path / "f32.gguf", "f32")
    assert any("2 tensors have no place in GGUF" in notice for notice in plan.notices)
    assert (tmp_path / "f32.gguf").stat().st_size == made.file("f32").stat().st_size
    tokens = random_tokens()
    assert worst_difference(made.logits, llama_logits(tmp_path / "f32.gguf", tokens)) <= 1e-3
    windows = np.array([tokens[:32]], np.int32)
    _, calibration = calibrate(tmp_path / "model", tmp_path, windows)
    _, alone = calibrate(made.path, tmp_path, windows)
    assert calibration.inputs.keys() == alone.inputs.keys()


def test_as_many_value_heads_as_key_heads_stay_in_order(tmp_path: Path) -> None:
    model = save_large("qwen3_5", tmp_path / "model", linear_num_value_heads=2)
    assert off_by(model, tmp_path / "model") <= 1e-3


def test_queries_of_deepseek_lite_have_no_rank(tmp_path: Path) -> None:
    model = save_large(
        "deepseek_v2",
        tmp_path / "model",
        num_hidden_layers=26,
        q_lora_rank=None,
        n_shared_experts=1,
    )
    assert off_by(model, tmp_path / "model") <= 1e-3


def test_a_layer_that_foretells_further_tokens_is_left_out(large: Large, tmp_path: Path) -> None:
    made = large("deepseek_v3")
    tensors = load_file(made.path / "model.safetensors")
    tensors["model.layers.3.eh_proj.weight"] = as_tensor(np.ones((3, 5), np.float32))
    (tmp_path / "model").mkdir()
    save_file(tensors, tmp_path / "model" / "model.safetensors", {"format": "pt"})
    config = json.loads((made.path / "config.json").read_text())
    for count, refused in ((1, False), (0, True)):
        config["num_nextn_predict_layers"] = count
        (tmp_path / "model" / "config.json").write_text(json.dumps(config))
        model = open_model(open_checkpoint(str(tmp_path / "model")))
        if refused:
            with pytest.raises(PlanError, match="eh_proj"):
                make_plan(model, Recipe("q8_0", output=tmp_path / "out.gguf"))
        else:
            plan = make_plan(model, Recipe("q8_0", output=tmp_path / "out.gguf"))
            assert any("eh_proj" in notice for notice in plan.notices)


@pytest.mark.parametrize(
    ("family", "changes", "words"),
    [
        ("gpt_oss", {"swiglu_limit": 6.0}, "swiglu_limit"),
        ("gpt_oss", {"attention_bias": False}, "attention_bias"),
        ("qwen3_5", {"linear_value_head_dim": 16}, "not of one size"),
        ("qwen3_5", {"layer_types": ["conv"] * 3}, "layer_types"),
        ("qwen3_next", {"mlp_only_layers": [0]}, "mlp_only_layers"),
        ("qwen3_next", {"norm_topk_prob": False}, "norm_topk_prob"),
        ("deepseek_v3", {"rope_interleave": False}, "rope_interleave"),
        ("deepseek_v3", {"q_lora_rank": None}, "q_lora_rank"),
        ("deepseek_v2", {"topk_method": "group_limited_greedy"}, "topk_method"),
        ("gemma3n", {"altup_num_inputs": 3}, "altup_num_inputs"),
        ("gemma3n", {"final_logit_softcapping": 20.0}, "softcapping"),
        ("gemma3n", {"num_kv_shared_layers": 10}, "20 layers"),
        ("gemma3n", {"activation_sparsity_pattern": [0.0] * 25}, "sparsity"),
        ("nemotron_h", {"use_conv_bias": False}, "use_conv_bias"),
        ("nemotron_h", {"layers_block_type": ["moe", "mlp"]}, "one or the other"),
        ("granite_hybrid", {"mamba_expand": 4, "mamba_n_heads": 20}, "mamba_expand"),
        ("granite_hybrid", {"layer_types": ["attention"] * 3}, "rotary positions only"),
        ("granite_hybrid", {"time_step_limit": [0.1, 1.0]}, "time_step_limit"),
        ("llama4", {"attention_chunk_size": 4096}, "attention_chunk_size"),
        ("llama4", {"no_rope_layers": [1, 1, 1, 1]}, "no_rope_layers"),
        ("llama4", {"moe_layers": [0, 1]}, "moe_layers"),
        ("llama4", {"use_qk_norm": False}, "use_qk_norm"),
        ("ernie4_5_moe", {"moe_layer_end_index": 1}, "moe_layer_end_index"),
        ("mamba", {"expand": 4}, "expand"),
        ("mamba2", {"use_bias": True}, "use_bias"),
        ("deepseek_v32", {"index_head_dim": 32}, "index_head_dim"),
        ("laguna", {"moe_router_logit_softcapping": 30.0}, "softcapping"),
        ("hy_v3", {"route_norm": False}, "route_norm"),
        ("mimo_v2", {"routed_scaling_factor": 2.5}, "routed_scaling_factor"),
        ("falcon_h1", {"mamba_norm_before_gate": True}, "mamba_norm_before_gate"),
        (
            "glm4_moe_lite",
            {"mlp_layer_types": ["sparse", "dense", "sparse"]},
            "without experts first",
        ),
    ],
)
def test_what_llama_cpp_would_run_otherwise_is_refused(
    family: str, changes: dict[str, Any], words: str, large: Large
) -> None:
    config = json.loads((large(family).path / "config.json").read_text()) | changes
    known = find_family(config)
    with pytest.raises(UnsupportedError, match=words):
        known.limits(text_config(known, config))


def test_tokens_that_an_indexer_chooses_are_mostly_the_same(tmp_path: Path) -> None:
    """Where there are more than it chooses; scores that are near each other are a matter of
    rounding, and what follows from them is."""
    model = save_large("glm_moe_dsa", tmp_path / "model", index_topk=40)
    convert_model(tmp_path / "model", tmp_path / "f32.gguf", "f32")
    tokens = random_tokens()
    expected = torch_logits(model, tokens)
    off = np.abs(expected - llama_logits(tmp_path / "f32.gguf", tokens)).max(axis=1)
    assert np.median(off) <= 1e-4 * (expected.max() - expected.min())
    notices = open_model(open_checkpoint(str(tmp_path / "model"))).notices
    assert any("can depend on rounding" in notice for notice in notices)


@pytest.mark.parametrize(
    ("family", "changes", "name"),
    [
        ("nemotron_h", {}, "nemotron_h"),
        ("nemotron_h_moe", {}, "nemotron_h_moe"),
        ("nemotron_h", {"layers_block_type": None, "hybrid_override_pattern": "M*-"}, "nemotron_h"),
        ("granite_hybrid", {}, "granitehybrid"),
        ("granite_hybrid", {"layer_types": ["attention"] * 3}, "granitemoe"),
        ("granite_hybrid_dense", {"layer_types": ["attention"] * 3}, "granite"),
    ],
)
def test_layers_tell_which_architecture_it_is(
    family: str, changes: dict[str, Any], name: str, large: Large
) -> None:
    config = json.loads((large(family).path / "config.json").read_text()) | changes
    assert find_family(config).name == name


def test_granite_4_without_state_spaces_is_granite_3(tmp_path: Path) -> None:
    attending = {"layer_types": ["full_attention"] * 3, "position_embedding_type": "rope"}
    for experts in (5, 0):
        path = tmp_path / str(experts) / "model"
        model = save_large("granite_hybrid", path, num_local_experts=experts, **attending)
        assert off_by(model, path) <= 1e-3


def test_other_sections_leave_pairs_without_a_position(large: Large) -> None:
    config = json.loads((large("qwen3_5").path / "config.json").read_text())
    config["rope_parameters"]["mrope_section"] = [4, 3, 2]
    with pytest.raises(UnsupportedError, match="mrope_section"):
        find_family(config).limits(config)


@pytest.mark.parametrize("family", LARGE)
def test_they_go_one_way(family: str, large: Large) -> None:
    model = open_model(open_checkpoint(str(large(family).file("q8_0"))))
    with pytest.raises(UnsupportedError, match="cannot be written as a Hugging Face checkpoint"):
        _ = model.description


def test_a_tied_output_of_gpt_oss_is_written_out_for_llama_cpp(tmp_path: Path) -> None:
    model = save_large("gpt_oss", tmp_path / "model", tie_word_embeddings=True)
    convert_model(tmp_path / "model", tmp_path / "out.gguf", "f32")
    logits = llama_logits(tmp_path / "out.gguf", random_tokens())
    assert worst_difference(torch_logits(model, random_tokens()), logits) < 1e-3
