"""Tiny models of plain decoders, beside those with which everything is tested."""

from typing import Any

from common import LLAMA3, Family, sizes

MULTIPLIERS = {
    "attention_multiplier": 0.11,
    "embedding_multiplier": 7.0,
    "residual_multiplier": 0.31,
    "logits_scaling": 5.0,
}
YARN = {
    "rope_type": "yarn",
    "rope_theta": 20000.0,
    "factor": 4.0,
    "original_max_position_embeddings": 16,
}
NTK = {"rope_type": "dynamic", "rope_theta": 10000.0, "alpha": 50.0, "factor": 1.0}

_WIDE = {
    "hidden_size": 256,
    "num_attention_heads": 8,
    "num_key_value_heads": 2,
    "head_dim": 32,
    "query_pre_attn_scalar": 32,
    "intermediate_size": 512,
    "moe_intermediate_size": 256,
    "shared_expert_intermediate_size": 256,
    "shared_intermediate_size": 256,
    "num_hidden_layers": 8,
}


def plain(name: str, settings: dict[str, Any], **facts: Any) -> Family:
    """A class of transformers' with its tiny model, and with a wide one of the same settings."""
    wide = {key: value for key, value in _WIDE.items() if key in settings}
    if settings["num_key_value_heads"] == settings["num_attention_heads"]:
        wide["num_key_value_heads"] = wide["num_attention_heads"]
    if "layer_types" in settings:
        wide["layer_types"] = (settings["layer_types"] * 4)[:8]
    return Family(f"{name}ForCausalLM", f"{name}Config", settings, wide, **facts)


def _layer_norms(settings: dict[str, Any], epsilon: str) -> dict[str, Any]:
    rest = {key: value for key, value in settings.items() if key != "rms_norm_eps"}
    return rest | {epsilon: 0.02}


_EPSILON = "layer_norm_epsilon"

PLAIN: dict[str, Family] = {
    "gemma": plain("Gemma", sizes(192, 6, 2, 40, 416, 3), shifted=True, scaled=True),
    "gemma2": plain(
        "Gemma2",
        sizes(192, 6, 2, 40, 416, 4, sliding_window=16, query_pre_attn_scalar=40)
        | {"attn_logit_softcapping": 3.0, "final_logit_softcapping": 20.0}
        | {"layer_types": ["sliding_attention", "full_attention", "sliding_attention"] * 2}
        | {"num_hidden_layers": 6},
        shifted=True,
        scaled=True,
    ),
    "ministral3": plain(
        "Ministral3",
        sizes(192, 6, 2, 40, 416, 3)
        | {
            "rope_parameters": YARN
            | {"mscale": 1.0, "mscale_all_dim": 1.0, "llama_4_scaling_beta": 0.3}
        },
    ),
    "qwen2_moe": plain(
        "Qwen2Moe",
        sizes(192, 6, 3, None, 352, 2, num_experts=5, num_experts_per_tok=2)
        | {"moe_intermediate_size": 96, "shared_expert_intermediate_size": 160},
    ),
    "olmo3": plain(
        "Olmo3",
        sizes(192, 8, 2, None, 416, 5, sliding_window=16)
        | {
            "rope_parameters": {
                "full_attention": YARN,
                "sliding_attention": {"rope_type": "default", "rope_theta": 20000.0},
            }
        },
    ),
    "seed_oss": plain("SeedOss", sizes(192, 6, 2, 40, 416, 3)),
    "glm4": plain("Glm4", sizes(192, 6, 2, 40, 416, 3)),
    "glm4_moe": plain(
        "Glm4Moe",
        sizes(192, 6, 2, 40, 416, 3, n_routed_experts=5, num_experts_per_tok=2)
        | {"moe_intermediate_size": 96, "n_shared_experts": 2, "routed_scaling_factor": 1.7}
        | {"use_qk_norm": True, "attention_bias": True},
        router=0.02,
    ),
    "exaone4": plain(
        "Exaone4",
        sizes(192, 6, 2, None, 416, 3, sliding_window=None)
        | {"layer_types": ["full_attention"] * 3},
    ),
    "exaone4_windows": plain("Exaone4", sizes(48, 6, 2, None, 56, 64, sliding_window=16)),
    "cohere": plain(
        "Cohere",
        _layer_norms(sizes(192, 8, 2, None, 416, 3, logit_scale=0.3), "layer_norm_eps"),
    ),
    "cohere_norms": plain(
        "Cohere",
        _layer_norms(
            sizes(48, 6, 2, None, 56, 64, logit_scale=0.3, use_qk_norm=True), "layer_norm_eps"
        ),
    ),
    "cohere2": plain(
        "Cohere2",
        _layer_norms(
            sizes(192, 8, 2, None, 416, 5, logit_scale=0.3, sliding_window=16), "layer_norm_eps"
        ),
    ),
    "starcoder2": plain("Starcoder2", _layer_norms(sizes(192, 8, 2, None, 416, 3), "norm_epsilon")),
    "stablelm": plain(
        "StableLm",
        _layer_norms(sizes(192, 6, 2, None, 416, 3, use_qkv_bias=True), "layer_norm_eps"),
    ),
    "olmoe": plain("Olmoe", sizes(192, 6, 6, None, 96, 2, num_experts=5, num_experts_per_tok=2)),
    "ernie4_5": plain("Ernie4_5", sizes(192, 6, 2, 40, 416, 3)),
    "granite_moe": plain(
        "GraniteMoe",
        sizes(192, 6, 2, None, 96, 2, num_local_experts=5, num_experts_per_tok=2) | MULTIPLIERS,
        scaled=True,
    ),
    "granite_moe_shared": plain(
        "GraniteMoeShared",
        sizes(192, 6, 2, None, 96, 2, num_local_experts=5, num_experts_per_tok=2)
        | MULTIPLIERS
        | {"shared_intermediate_size": 160},
        scaled=True,
    ),
    "minimax_m2": plain(
        "MiniMaxM2",
        sizes(192, 6, 2, 40, 96, 2, num_local_experts=5, num_experts_per_tok=2)
        | {
            "rope_parameters": {
                "rope_type": "default",
                "rope_theta": 30000.0,
                "partial_rotary_factor": 0.5,
            }
        },
        router=0.02,
    ),
    "arcee": plain("Arcee", sizes(192, 6, 2, 40, 416, 3)),
    "nemotron": plain(
        "Nemotron",
        _layer_norms(sizes(192, 6, 2, None, 416, 3, mlp_bias=True), "norm_eps"),
        shifted=True,
    ),
    "olmo": plain(
        "Olmo",
        {k: v for k, v in sizes(192, 6, 2, None, 416, 3).items() if k != "rms_norm_eps"}
        | {"clip_qkv": 0.9},
    ),
    "apertus": plain("Apertus", sizes(192, 6, 2, None, 416, 3, rope_parameters=LLAMA3)),
    "hunyuan_dense": plain("HunYuanDenseV1", sizes(192, 6, 2, 40, 416, 3, rope_parameters=NTK)),
    "hunyuan_moe": plain(
        "HunYuanMoEV1",
        sizes(192, 6, 2, 40, 96, 2, num_experts=5, moe_topk=2, rope_parameters=NTK),
    ),
    "gpt_neox": plain(
        "GPTNeoX",
        _layer_norms(sizes(192, 6, 6, None, 416, 3), "layer_norm_eps")
        | {
            "rope_parameters": {
                "rope_type": "default",
                "rope_theta": 20000.0,
                "partial_rotary_factor": 0.25,
            }
        },
    ),
    "stablelm_12b": plain(
        "StableLm",
        _layer_norms(sizes(192, 6, 2, None, 416, 3), "layer_norm_eps")
        | {"qk_layernorm": True, "use_parallel_residual": True},
    ),
    "falcon_7b": plain("Falcon", _layer_norms(sizes(192, 6, 6, None, 768, 3), _EPSILON)),
    "falcon_40b": plain(
        "Falcon",
        _layer_norms(sizes(192, 6, 6, None, 416, 3), _EPSILON)
        | {"new_decoder_architecture": True, "num_kv_heads": 2, "ffn_hidden_size": 416},
    ),
    "bloom": plain("Bloom", _layer_norms(sizes(192, 6, 6, None, 768, 3), _EPSILON)),
    "mpt": plain(
        "Mpt",
        _layer_norms(sizes(192, 6, 6, None, 768, 3), _EPSILON)
        | {"max_seq_len": 128, "attn_config": {"clip_qkv": 0.9}},
    ),
}

ONE_WAY = ("apertus", "gpt_neox", "stablelm_12b", "falcon_7b", "falcon_40b", "bloom", "mpt")
"""Those that are not written back."""

ALWAYS_TIED = ("gemma", "gemma2", "cohere", "cohere_norms", "cohere2")
"""Those whose output is the embedding in llama.cpp."""

SMALL = [name for name, family in PLAIN.items() if family.tiny["num_hidden_layers"] < 64]
"""Those with few layers."""
