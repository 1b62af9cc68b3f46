"""Settings of tiny models with layers of state spaces, choices of tokens, and large mixtures."""

from dataclasses import dataclass, field
from typing import Any

from common import LLAMA3


@dataclass(frozen=True)
class Large:
    """A class of transformers' and the settings of its tiny model.

    Attributes:
        wide: what makes it one whose rows K-types can pack.
        zero_norms: the model adds one to the weights of its norms.
        scaled: by the endings of names, what drawn weights are multiplied with.
    """

    model: str
    config: str
    settings: dict[str, Any]
    wide: dict[str, Any]
    zero_norms: bool = False
    scaled: dict[str, float] = field(default_factory=dict)

    @property
    def experts(self) -> int:
        """Of each layer."""
        named = ("num_local_experts", "num_experts", "n_routed_experts", "moe_num_experts")
        return next((self.settings[name] for name in named if name in self.settings), 0)


WIDE: dict[str, Any] = {
    "hidden_size": 256,
    "intermediate_size": 512,
    "num_hidden_layers": 8,
    "num_attention_heads": 8,
    "num_key_value_heads": 2,
    "head_dim": 32,
}
WIDE_HEADLESS = {key: value for key, value in WIDE.items() if key != "head_dim"}

LATENT: dict[str, Any] = {
    "hidden_size": 160,
    "intermediate_size": 224,
    "moe_intermediate_size": 96,
    "num_hidden_layers": 3,
    "first_k_dense_replace": 1,
    "num_attention_heads": 6,
    "num_key_value_heads": 6,
    "n_routed_experts": 6,
    "num_experts_per_tok": 2,
    "n_group": 3,
    "topk_group": 2,
    "n_shared_experts": 2,
    "kv_lora_rank": 48,
    "q_lora_rank": 64,
    "qk_nope_head_dim": 40,
    "qk_rope_head_dim": 16,
    "v_head_dim": 32,
    "rms_norm_eps": 1e-6,
    "rope_parameters": {
        "rope_type": "yarn",
        "rope_theta": 20000.0,
        "factor": 4.0,
        "original_max_position_embeddings": 32,
        "mscale": 0.7,
        "mscale_all_dim": 0.7,
    },
}

WIDE_LATENT = {
    **WIDE_HEADLESS,
    "num_key_value_heads": 8,
    "moe_intermediate_size": 256,
    "kv_lora_rank": 256,
    "q_lora_rank": 256,
    "qk_nope_head_dim": 256,
}
STATES: dict[str, Any] = {
    "hidden_size": 160,
    "intermediate_size": 224,
    "layers_block_type": ["linear_attention", "mlp", "full_attention", "linear_attention"],
    "num_attention_heads": 6,
    "num_key_value_heads": 2,
    "head_dim": 40,
    "mamba_num_heads": 12,
    "mamba_head_dim": 24,
    "n_groups": 3,
    "ssm_state_size": 32,
    "conv_kernel": 3,
    "chunk_size": 32,
    "layer_norm_epsilon": 0.02,
    "time_step_min": 1e-9,
}
STATES_AND_EXPERTS = STATES | {
    "layers_block_type": ["linear_attention", "moe", "full_attention", "moe"],
    "n_routed_experts": 6,
    "num_experts_per_tok": 2,
    "n_group": 3,
    "topk_group": 2,
    "moe_intermediate_size": 96,
    "moe_shared_expert_intermediate_size": 64,
    "moe_latent_size": 128,
    "routed_scaling_factor": 1.5,
}

GRANITE: dict[str, Any] = {
    "hidden_size": 160,
    "intermediate_size": 96,
    "shared_intermediate_size": 224,
    "num_hidden_layers": 3,
    "layer_types": ["linear_attention", "full_attention", "linear_attention"],
    "num_attention_heads": 8,
    "num_key_value_heads": 2,
    "num_local_experts": 5,
    "num_experts_per_tok": 2,
    "mamba_n_heads": 10,
    "mamba_d_head": 32,
    "mamba_n_groups": 2,
    "mamba_d_state": 48,
    "mamba_d_conv": 3,
    "mamba_chunk_size": 32,
    "attention_multiplier": 0.3,
    "embedding_multiplier": 7.0,
    "residual_multiplier": 0.31,
    "logits_scaling": 0.7,
}

CHUNKED: dict[str, Any] = {
    "hidden_size": 160,
    "intermediate_size": 96,
    "intermediate_size_mlp": 224,
    "num_hidden_layers": 4,
    "interleave_moe_layer_step": 2,
    "num_attention_heads": 6,
    "num_key_value_heads": 2,
    "head_dim": 40,
    "num_local_experts": 5,
    "num_experts_per_tok": 2,
    "rope_parameters": LLAMA3,
}
ERNIE: dict[str, Any] = {
    "hidden_size": 192,
    "intermediate_size": 224,
    "num_hidden_layers": 3,
    "num_attention_heads": 6,
    "num_key_value_heads": 2,
    "moe_intermediate_size": 96,
    "moe_num_experts": 5,
    "moe_k": 2,
    "moe_num_shared_experts": 3,
    "rope_parameters": {"rope_type": "default", "rope_theta": 20000.0},
}

MAMBA: dict[str, Any] = {
    "hidden_size": 160,
    "num_hidden_layers": 3,
    "state_size": 16,
    "conv_kernel": 3,
    "time_step_rank": 12,
    "layer_norm_epsilon": 0.02,
}
MAMBA2: dict[str, Any] = {
    "hidden_size": 160,
    "num_hidden_layers": 3,
    "state_size": 48,
    "conv_kernel": 3,
    "num_heads": 10,
    "head_dim": 32,
    "n_groups": 2,
    "chunk_size": 32,
    "layer_norm_epsilon": 0.02,
}

JAMBA: dict[str, Any] = {
    "hidden_size": 192,
    "intermediate_size": 224,
    "num_hidden_layers": 4,
    "attn_layer_period": 3,
    "attn_layer_offset": 1,
    "num_attention_heads": 6,
    "num_key_value_heads": 2,
    "num_experts": 5,
    "num_experts_per_tok": 2,
    "mamba_d_conv": 3,
    "mamba_dt_rank": 20,
}

INDEXED = LATENT | {
    "n_group": 1,
    "topk_group": 1,
    "index_n_heads": 3,
    "index_head_dim": 64,
    "index_topk": 64,
    "rope_parameters": LATENT["rope_parameters"] | {"mscale": 1.0, "mscale_all_dim": 1.0},
}

HUNYUAN: dict[str, Any] = {
    "hidden_size": 160,
    "intermediate_size": 224,
    "num_hidden_layers": 3,
    "num_attention_heads": 6,
    "num_key_value_heads": 2,
    "head_dim": 40,
    "num_experts": 5,
    "num_experts_per_tok": 2,
    "num_shared_experts": 2,
    "moe_intermediate_size": 96,
    "rope_parameters": {"rope_type": "default", "rope_theta": 20000.0},
}
LAGUNA: dict[str, Any] = {
    "hidden_size": 160,
    "intermediate_size": 224,
    "num_hidden_layers": 4,
    "layer_types": ["full_attention", "sliding_attention"] * 2,
    "num_attention_heads": 6,
    "num_attention_heads_per_layer": [6, 4, 8, 4],
    "num_key_value_heads": 2,
    "head_dim": 40,
    "num_experts": 5,
    "num_experts_per_tok": 2,
    "moe_intermediate_size": 96,
    "shared_expert_intermediate_size": 64,
    "moe_routed_scaling_factor": 1.5,
    "sliding_window": 16,
    "rope_parameters": {
        "full_attention": {
            "rope_type": "yarn",
            "rope_theta": 500000.0,
            "factor": 4.0,
            "original_max_position_embeddings": 32,
            "partial_rotary_factor": 0.5,
        },
        "sliding_attention": {"rope_type": "default", "rope_theta": 20000.0},
    },
}

FALCON: dict[str, Any] = {
    "hidden_size": 192,
    "intermediate_size": 224,
    "num_hidden_layers": 3,
    "num_attention_heads": 6,
    "num_key_value_heads": 2,
    "head_dim": 40,
    "mamba_d_ssm": 240,
    "mamba_n_heads": 10,
    "mamba_d_head": 24,
    "mamba_n_groups": 2,
    "mamba_d_state": 48,
    "mamba_d_conv": 3,
    "mamba_chunk_size": 32,
    "mamba_rms_norm": True,
    "mamba_norm_before_gate": False,
    "embedding_multiplier": 1.3,
    "lm_head_multiplier": 0.7,
    "key_multiplier": 0.8,
    "attention_in_multiplier": 1.2,
    "attention_out_multiplier": 0.9,
    "ssm_in_multiplier": 1.25,
    "ssm_out_multiplier": 0.6,
    "ssm_multipliers": [0.9, 1.1, 0.8, 1.2, 0.7],
    "mlp_multipliers": [0.8, 1.4],
    "rope_parameters": {"rope_type": "default", "rope_theta": 20000.0},
}

WIDE_STATES = WIDE | {
    "layers_block_type": ["linear_attention", "mlp", "full_attention", "mlp"] * 2,
    "mamba_num_heads": 8,
    "mamba_head_dim": 64,
    "n_groups": 2,
    "ssm_state_size": 64,
}
WIDE_STATES_AND_EXPERTS = WIDE_STATES | {
    "layers_block_type": ["linear_attention", "moe", "full_attention", "moe"] * 2,
    "moe_intermediate_size": 256,
    "moe_shared_expert_intermediate_size": 512,
    "moe_latent_size": 256,
}
WIDE_GRANITE = {
    **WIDE_HEADLESS,
    "layer_types": ["linear_attention"] * 3
    + ["full_attention"]
    + ["linear_attention", "full_attention"] * 2,
    "intermediate_size": 256,
    "shared_intermediate_size": 512,
    "mamba_n_heads": 8,
    "mamba_d_head": 64,
}

MIMO: dict[str, Any] = {
    "hidden_size": 160,
    "intermediate_size": 224,
    "num_hidden_layers": 3,
    "layer_types": ["full_attention", "sliding_attention", "sliding_attention"],
    "num_attention_heads": 8,
    "num_key_value_heads": 2,
    "head_dim": 40,
    "v_head_dim": 24,
    "n_routed_experts": 6,
    "num_experts_per_tok": 2,
    "n_group": 3,
    "topk_group": 2,
    "moe_intermediate_size": 96,
    "sliding_window": 16,
    "rope_parameters": {
        "full_attention": {
            "rope_type": "default",
            "rope_theta": 500000.0,
            "partial_rotary_factor": 0.5,
        },
        "sliding_attention": {
            "rope_type": "default",
            "rope_theta": 20000.0,
            "partial_rotary_factor": 0.5,
        },
    },
}

HYBRID: dict[str, Large] = {
    "nemotron_h": Large("NemotronHForCausalLM", "NemotronHConfig", STATES, WIDE_STATES),
    "nemotron_h_moe": Large(
        "NemotronHForCausalLM", "NemotronHConfig", STATES_AND_EXPERTS, WIDE_STATES_AND_EXPERTS
    ),
    "granite_hybrid": Large(
        "GraniteMoeHybridForCausalLM", "GraniteMoeHybridConfig", GRANITE, WIDE_GRANITE
    ),
    "granite_hybrid_dense": Large(
        "GraniteMoeHybridForCausalLM",
        "GraniteMoeHybridConfig",
        GRANITE | {"num_local_experts": 0, "position_embedding_type": "rope"},
        WIDE_GRANITE,
    ),
    "llama4": Large(
        "Llama4ForCausalLM",
        "Llama4TextConfig",
        CHUNKED,
        WIDE | {"intermediate_size": 256, "intermediate_size_mlp": 512},
    ),
    "ernie4_5_moe": Large(
        "Ernie4_5_MoeForCausalLM",
        "Ernie4_5_MoeConfig",
        ERNIE,
        WIDE_HEADLESS | {"moe_intermediate_size": 256},
    ),
    "mamba": Large(
        "MambaForCausalLM", "MambaConfig", MAMBA, {"hidden_size": 256, "num_hidden_layers": 8}
    ),
    "mamba2": Large(
        "Mamba2ForCausalLM",
        "Mamba2Config",
        MAMBA2,
        {"hidden_size": 256, "num_hidden_layers": 8, "num_heads": 8, "head_dim": 64},
    ),
    "jamba": Large(
        "JambaForCausalLM",
        "JambaConfig",
        JAMBA,
        WIDE_HEADLESS,
    ),
    "deepseek_v32": Large(
        "DeepseekV32ForCausalLM",
        "DeepseekV32Config",
        INDEXED | {"first_k_dense_replace": 2},
        WIDE_LATENT | {"index_n_heads": 8},
    ),
    "glm_moe_dsa": Large(
        "GlmMoeDsaForCausalLM",
        "GlmMoeDsaConfig",
        INDEXED | {"rope_parameters": {"rope_type": "default", "rope_theta": 20000.0}},
        WIDE_LATENT | {"index_n_heads": 8},
    ),
    "hy_v3": Large("HYV3ForCausalLM", "HYV3Config", HUNYUAN, WIDE | {"moe_intermediate_size": 256}),
    "laguna": Large(
        "LagunaForCausalLM",
        "LagunaConfig",
        LAGUNA,
        WIDE
        | {"layer_types": (["full_attention"] + ["sliding_attention"] * 3) * 2}
        | {"num_attention_heads_per_layer": [8, 4, 4, 4] * 2, "moe_intermediate_size": 256},
    ),
    "laguna_elements": Large(
        "LagunaForCausalLM",
        "LagunaConfig",
        LAGUNA
        | {"layer_types": ["full_attention"] * 3, "gating": "per-element", "num_experts_per_tok": 3}
        | {"num_attention_heads_per_layer": None, "num_hidden_layers": 3},
        WIDE | {"layer_types": None, "moe_intermediate_size": 256},
    ),
    "mimo_v2": Large(
        "MiMoV2FlashForCausalLM",
        "MiMoV2FlashConfig",
        MIMO,
        WIDE
        | {"v_head_dim": 64, "moe_intermediate_size": 256, "num_attention_heads": 4}
        | {"num_key_value_heads": 1, "head_dim": 64, "layer_types": None},
    ),
    "falcon_h1": Large(
        "FalconH1ForCausalLM",
        "FalconH1Config",
        FALCON,
        WIDE | {"mamba_d_ssm": 512, "mamba_n_heads": 8, "mamba_d_head": 64},
    ),
}
