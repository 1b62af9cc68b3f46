"""What mlx-lm reads of `config.json`: stated whatever the checkpoint leaves out, and refused where
it would compute something else."""

from typing import Any

import pytest
from common import LLAMA3

from qconvert.errors import UnsupportedError
from qconvert.model.families import find_family
from qconvert.model.families.parts.common import text_config
from qconvert.model.mlx.families import FAMILIES, mlx_family

SIZES = {"hidden_size": 256, "num_attention_heads": 8, "num_key_value_heads": 2, "head_dim": 32}
NEW = {"rope_type": "default", "rope_theta": 5e4}


def settings_of(name: str, **config: Any) -> dict[str, Any]:
    config = {"architectures": [name], **SIZES, **config}
    return mlx_family(config).settings(text_config(find_family(config), config))


def test_the_families_with_which_everything_is_tested_are_there():
    from common import FAMILIES as TESTED

    from qconvert.model.families import BY_CLASS

    tested = {family.model for family in TESTED.values()} - {"BertModel"}
    assert tested <= FAMILIES.keys() <= BY_CLASS.keys()


@pytest.mark.parametrize("name", ["BertModel", "LlamaModel", "Mamba2ForCausalLM"])
def test_others_are_refused_by_name(name):
    with pytest.raises(UnsupportedError, match=name) as refused:
        mlx_family({"architectures": [name]})
    assert "LlamaForCausalLM" in refused.value.hint


@pytest.mark.parametrize(
    "config",
    [
        {"rope_parameters": {**LLAMA3}},
        {
            "rope_theta": LLAMA3["rope_theta"],
            "rope_scaling": {k: v for k, v in LLAMA3.items() if k != "rope_theta"},
        },
    ],
)
def test_stretched_positions_are_said_as_transformers_4_did(config):
    found = settings_of("LlamaForCausalLM", **config)
    assert found["rope_theta"] == 5e4
    assert found["rope_scaling"] == {
        "type": "llama3",
        "rope_type": "llama3",
        "factor": 4.0,
        "low_freq_factor": 1.0,
        "high_freq_factor": 4.0,
        "original_max_position_embeddings": 128,
    }


def test_what_is_left_out_is_transformers_default():
    found = settings_of("LlamaForCausalLM")
    assert (found["rope_theta"], found["rope_scaling"]) == (10000.0, None)
    assert (found["attention_bias"], found["mlp_bias"]) == (False, False)
    experts = settings_of(
        "Qwen3MoeForCausalLM", num_experts=4, num_experts_per_tok=2, moe_intermediate_size=64
    )
    assert experts["norm_topk_prob"] is False
    assert (experts["decoder_sparse_step"], experts["mlp_only_layers"]) == (1, [])


def test_yarn_says_the_context_it_began_with():
    rope = {**NEW, "rope_type": "yarn", "factor": 4}
    found = settings_of("Qwen2ForCausalLM", rope_parameters=rope, max_position_embeddings=4096)
    assert found["rope_scaling"]["original_max_position_embeddings"] == 4096
    assert found["rope_scaling"]["factor"] == 4.0


def test_gemmas_layers_become_a_pattern():
    kinds = ["sliding_attention"] * 2 + ["full_attention"]
    found = settings_of(
        "Gemma3ForCausalLM",
        num_hidden_layers=7,
        layer_types=[*kinds, *kinds, kinds[0]],
        query_pre_attn_scalar=32,
        rope_parameters={"full_attention": NEW, "sliding_attention": {"rope_theta": 2e4}},
    )
    assert found["sliding_window_pattern"] == 3
    assert (found["rope_theta"], found["rope_local_base_freq"]) == (5e4, 2e4)


def test_a_window_is_heeded_beside_full_attention_alone():
    kinds = ["full_attention", "sliding_attention"]
    for name, given, heeded in (
        ("SmolLM3ForCausalLM", kinds, True),
        ("SmolLM3ForCausalLM", kinds[1:], False),
        ("MistralForCausalLM", kinds, False),
        ("Qwen2ForCausalLM", kinds, False),
        ("Gemma3ForCausalLM", kinds[1:], True),
    ):
        assert FAMILIES[name].heeds_window({"layer_types": given}) == heeded
    for name, given, stated in (
        ("SmolLM3ForCausalLM", kinds, kinds),
        ("SmolLM3ForCausalLM", kinds[1:], None),
        ("MistralForCausalLM", kinds, None),  # transformers' has no kinds of layers
    ):
        assert settings_of(name, layer_types=given)["layer_types"] == stated


def test_phis_part_of_each_head_is_found_in_either_place():
    for config in (
        {"partial_rotary_factor": 0.5},
        {"rope_parameters": {**NEW, "partial_rotary_factor": 0.5}},
    ):
        assert settings_of("Phi3ForCausalLM", **config)["partial_rotary_factor"] == 0.5


@pytest.mark.parametrize(
    ("name", "config", "what"),
    [
        ("LlamaForCausalLM", {"hidden_act": "gelu"}, "hidden_act"),
        ("LlamaForCausalLM", {"rope_parameters": {**NEW, "rope_type": "longrope"}}, "longrope"),
        ("LlamaForCausalLM", {"partial_rotary_factor": 0.5}, "part of each head"),
        ("Qwen2ForCausalLM", {"rope_parameters": LLAMA3}, "llama3"),
        ("Qwen2ForCausalLM", {"head_dim": 64}, "head_dim"),
        ("MixtralForCausalLM", {"rope_parameters": {**NEW, "rope_type": "linear"}}, "linear"),
        ("Phi3ForCausalLM", {"rope_parameters": {**NEW, "rope_type": "linear"}}, "linear"),
        ("Qwen3ForCausalLM", {"attention_bias": True}, "attention_bias"),
        ("Gemma3ForCausalLM", {"final_logit_softcapping": 30.0}, "softcapping"),
        ("Gemma3ForCausalLM", {"num_hidden_layers": 4}, "n-th layer"),
        ("GPT2LMHeadModel", {"n_embd": 256, "n_inner": 512}, "n_inner"),
        (
            "Qwen3ForCausalLM",
            {"rope_parameters": {**NEW, "rope_type": "yarn", "factor": 2, "attention_factor": 1.5}},
            "attention_factor",
        ),
    ],
)
def test_what_mlx_lm_would_compute_otherwise_is_refused(name, config, what):
    if name.startswith("Gemma"):
        config = {"query_pre_attn_scalar": 32, **config}
    with pytest.raises(UnsupportedError, match=what):
        settings_of(name, **config)
