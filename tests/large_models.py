"""Tiny models of families with mixed layers: experts with biases, linear attention, latent keys.

Each is made once for all tests that look at it (`large` in `conftest.py`).
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from common import LLAMA3, VOCABULARY, convert_model, random_tokens, torch_logits


@dataclass(frozen=True)
class Large:
    """A class of transformers' and the settings of its tiny model.

    Attributes:
        wide: what makes it one whose rows K-types can pack.
        zero_norms: the model adds one to the weights of its norms.
    """

    model: str
    config: str
    settings: dict[str, Any]
    wide: dict[str, Any]
    zero_norms: bool = False

    @property
    def experts(self) -> int:
        """Of each layer."""
        named = ("num_local_experts", "num_experts", "n_routed_experts", "moe_num_experts")
        return next((self.settings[name] for name in named if name in self.settings), 0)


_LINEAR: dict[str, Any] = {
    "hidden_size": 160,
    "intermediate_size": 224,
    "num_hidden_layers": 3,
    "layer_types": ["linear_attention", "full_attention", "linear_attention"],
    "num_attention_heads": 6,
    "num_key_value_heads": 2,
    "head_dim": 40,
    "rms_norm_eps": 1e-6,  # llama.cpp has it for more than transformers has
    "linear_num_key_heads": 2,
    "linear_num_value_heads": 6,
    "linear_key_head_dim": 32,
    "linear_value_head_dim": 32,
    "linear_conv_kernel_dim": 4,
    "rope_parameters": {
        "rope_type": "default",
        "rope_theta": 20000.0,
        "partial_rotary_factor": 0.5,
        "mrope_section": [4, 3, 3],
    },
}

_EXPERTS: dict[str, Any] = {
    "moe_intermediate_size": 96,
    "shared_expert_intermediate_size": 64,
    "num_experts": 5,
    "num_experts_per_tok": 2,
}

_CONVOLVED: dict[str, Any] = {
    "hidden_size": 192,
    "intermediate_size": 336,
    "block_multiple_of": 32,
    "num_hidden_layers": 3,
    "layer_types": ["conv", "full_attention", "conv"],
    "num_attention_heads": 6,
    "num_key_value_heads": 2,
    "conv_L_cache": 4,
    "norm_eps": 0.02,
    "rope_parameters": {"rope_type": "default", "rope_theta": 20000.0},
}

_LAYERED: dict[str, Any] = {
    "hidden_size": 192,
    "intermediate_size": 224,
    "num_hidden_layers": 6,
    "layer_types": ["sliding_attention", "full_attention"] * 3,
    "num_attention_heads": 6,
    "num_key_value_heads": 2,
    "head_dim": 24,
    "global_head_dim": 48,
    "hidden_size_per_layer_input": 32,
    "vocab_size_per_layer_input": VOCABULARY,
    "num_kv_shared_layers": 2,
    "use_double_wide_mlp": True,
    "sliding_window": 16,
    "final_logit_softcapping": 20.0,
    "rope_parameters": {
        "full_attention": {
            "rope_type": "proportional",
            "rope_theta": 500000.0,
            "partial_rotary_factor": 0.25,
        },
        "sliding_attention": {"rope_type": "default", "rope_theta": 20000.0},
    },
}
_BESIDE = _LAYERED | {
    "num_hidden_layers": 3,
    "layer_types": ["sliding_attention", "full_attention", "full_attention"],
    "hidden_size_per_layer_input": 0,
    "num_kv_shared_layers": 0,
    "use_double_wide_mlp": False,
    "attention_k_eq_v": True,
    "num_global_key_value_heads": 3,
    "enable_moe_block": True,
    "num_experts": 5,
    "top_k_experts": 2,
    "moe_intermediate_size": 96,
}

_LATENT: dict[str, Any] = {
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

_STATES: dict[str, Any] = {
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
_STATES_AND_EXPERTS = _STATES | {
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

_GRANITE: dict[str, Any] = {
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

_CHUNKED: dict[str, Any] = {
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
_ERNIE: dict[str, Any] = {
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

_MAMBA: dict[str, Any] = {
    "hidden_size": 160,
    "num_hidden_layers": 3,
    "state_size": 16,
    "conv_kernel": 3,
    "time_step_rank": 12,
    "layer_norm_epsilon": 0.02,
}
_MAMBA2: dict[str, Any] = {
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

_JAMBA: dict[str, Any] = {
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

_INDEXED = _LATENT | {"index_n_heads": 3, "index_head_dim": 32, "index_topk": 40}

_WIDE: dict[str, Any] = {
    "hidden_size": 256,
    "intermediate_size": 512,
    "num_hidden_layers": 8,
    "num_attention_heads": 8,
    "num_key_value_heads": 2,
    "head_dim": 32,
}
_WIDE_LINEAR = _WIDE | {
    "layer_types": (["linear_attention"] * 3 + ["full_attention"]) * 2,
    "linear_num_key_heads": 2,
    "linear_num_value_heads": 8,
}
_WIDE_EXPERTS = {"moe_intermediate_size": 256, "shared_expert_intermediate_size": 256}
_WIDE_LAYERED = {
    "hidden_size": 256,
    "intermediate_size": 512,
    "num_attention_heads": 8,
    "head_dim": 32,
    "global_head_dim": 64,
    "hidden_size_per_layer_input": 256,
}
_WIDE_BESIDE = {
    "hidden_size_per_layer_input": 0,
    "num_global_key_value_heads": 4,
    "moe_intermediate_size": 256,
}
_WIDE_CONVOLVED = {
    **{key: value for key, value in _WIDE.items() if key != "head_dim"},
    "layer_types": (["conv"] * 2 + ["full_attention", "conv"]) * 2,
    "intermediate_size": 768,
    "block_multiple_of": 256,
}
_WIDE_LATENT = {
    **{key: value for key, value in _WIDE.items() if key != "head_dim"},
    "num_key_value_heads": 8,
    "moe_intermediate_size": 256,
    "kv_lora_rank": 256,
    "q_lora_rank": 256,
    "qk_nope_head_dim": 256,
}
_WIDE_STATES = _WIDE | {
    "layers_block_type": ["linear_attention", "mlp", "full_attention", "mlp"] * 2,
    "mamba_num_heads": 8,
    "mamba_head_dim": 64,
    "n_groups": 2,
    "ssm_state_size": 64,
}
_WIDE_STATES_AND_EXPERTS = _WIDE_STATES | {
    "layers_block_type": ["linear_attention", "moe", "full_attention", "moe"] * 2,
    "moe_intermediate_size": 256,
    "moe_shared_expert_intermediate_size": 512,
    "moe_latent_size": 256,
}
_WIDE_GRANITE = {
    **{key: value for key, value in _WIDE.items() if key != "head_dim"},
    "layer_types": ["linear_attention"] * 3
    + ["full_attention"]
    + ["linear_attention", "full_attention"] * 2,
    "intermediate_size": 256,
    "shared_intermediate_size": 512,
    "mamba_n_heads": 8,
    "mamba_d_head": 64,
}

WHOLE = ("gemma4",)
"""Those that cannot be run block by block."""

LARGE: dict[str, Large] = {
    "gpt_oss": Large(
        "GptOssForCausalLM",
        "GptOssConfig",
        {
            "hidden_size": 192,
            "intermediate_size": 96,
            "num_hidden_layers": 3,
            "num_attention_heads": 6,
            "num_key_value_heads": 2,
            "head_dim": 40,
            "num_local_experts": 5,
            "num_experts_per_tok": 2,
            "sliding_window": 16,
            "rope_parameters": {"rope_type": "default", "rope_theta": 20000.0},
        },
        _WIDE,
    ),
    "qwen3_5": Large(
        "Qwen3_5ForCausalLM", "Qwen3_5TextConfig", _LINEAR, _WIDE_LINEAR, zero_norms=True
    ),
    "qwen3_5_moe": Large(
        "Qwen3_5MoeForCausalLM",
        "Qwen3_5MoeTextConfig",
        _LINEAR | _EXPERTS,
        _WIDE_LINEAR | _WIDE_EXPERTS,
        zero_norms=True,
    ),
    "qwen3_next": Large(
        "Qwen3NextForCausalLM",
        "Qwen3NextConfig",
        _LINEAR | _EXPERTS,
        _WIDE_LINEAR | _WIDE_EXPERTS,
        zero_norms=True,
    ),
    "gemma4": Large("Gemma4ForCausalLM", "Gemma4TextConfig", _LAYERED, _WIDE_LAYERED),
    "gemma4_moe": Large(
        "Gemma4ForCausalLM", "Gemma4TextConfig", _BESIDE, _WIDE_LAYERED | _WIDE_BESIDE
    ),
    "lfm2": Large("Lfm2ForCausalLM", "Lfm2Config", _CONVOLVED, _WIDE_CONVOLVED),
    "lfm2_moe": Large(
        "Lfm2MoeForCausalLM",
        "Lfm2MoeConfig",
        _CONVOLVED
        | {"num_dense_layers": 1, "num_experts": 5, "num_experts_per_tok": 2}
        | {"moe_intermediate_size": 96},
        _WIDE_CONVOLVED | {"moe_intermediate_size": 256},
    ),
    "deepseek_v3": Large("DeepseekV3ForCausalLM", "DeepseekV3Config", _LATENT, _WIDE_LATENT),
    "glm4_moe_lite": Large(
        "Glm4MoeLiteForCausalLM",
        "Glm4MoeLiteConfig",
        _LATENT | {"n_group": 1, "topk_group": 1},
        _WIDE_LATENT,
    ),
    "nemotron_h": Large("NemotronHForCausalLM", "NemotronHConfig", _STATES, _WIDE_STATES),
    "nemotron_h_moe": Large(
        "NemotronHForCausalLM", "NemotronHConfig", _STATES_AND_EXPERTS, _WIDE_STATES_AND_EXPERTS
    ),
    "granite_hybrid": Large(
        "GraniteMoeHybridForCausalLM", "GraniteMoeHybridConfig", _GRANITE, _WIDE_GRANITE
    ),
    "granite_hybrid_dense": Large(
        "GraniteMoeHybridForCausalLM",
        "GraniteMoeHybridConfig",
        _GRANITE
        | {"num_local_experts": 0, "position_embedding_type": "rope"},
        _WIDE_GRANITE,
    ),
    "llama4": Large(
        "Llama4ForCausalLM",
        "Llama4TextConfig",
        _CHUNKED,
        _WIDE | {"intermediate_size": 256, "intermediate_size_mlp": 512},
    ),
    "ernie4_5_moe": Large(
        "Ernie4_5_MoeForCausalLM",
        "Ernie4_5_MoeConfig",
        _ERNIE,
        {key: value for key, value in _WIDE.items() if key != "head_dim"}
        | {"moe_intermediate_size": 256},
    ),
    "mamba": Large(
        "MambaForCausalLM", "MambaConfig", _MAMBA, {"hidden_size": 256, "num_hidden_layers": 8}
    ),
    "mamba2": Large(
        "Mamba2ForCausalLM",
        "Mamba2Config",
        _MAMBA2,
        {"hidden_size": 256, "num_hidden_layers": 8, "num_heads": 8, "head_dim": 64},
    ),
    "jamba": Large(
        "JambaForCausalLM",
        "JambaConfig",
        _JAMBA,
        {key: value for key, value in _WIDE.items() if key != "head_dim"},
    ),
    "deepseek_v32": Large(
        "DeepseekV32ForCausalLM", "DeepseekV32Config", _INDEXED, _WIDE_LATENT | {"index_n_heads": 8}
    ),
    "glm_moe_dsa": Large(
        "GlmMoeDsaForCausalLM",
        "GlmMoeDsaConfig",
        _INDEXED | {"n_group": 1, "topk_group": 1},
        _WIDE_LATENT | {"index_n_heads": 8},
    ),
    "deepseek_v2": Large(
        "DeepseekV2ForCausalLM",
        "DeepseekV2Config",
        _LATENT
        | {"hidden_size": 192, "norm_topk_prob": False, "n_group": None, "topk_group": None},
        _WIDE_LATENT,
    ),
}


def large_model(family: str, *, wide: bool = False, **changes: Any) -> Any:
    """A random float32 model in evaluation mode, the same at every call."""
    import transformers

    entry = LARGE[family]
    ids = {"bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0}
    usual = {"vocab_size": VOCABULARY, "max_position_embeddings": 512, "rms_norm_eps": 0.02}
    settings = usual | {"tie_word_embeddings": False} | entry.settings
    settings |= (entry.wide if wide else {}) | changes
    config = getattr(transformers, entry.config)(**ids, **settings)
    config._attn_implementation = "eager"
    model = getattr(transformers, entry.model)(config).float().eval()
    spread(model, entry)
    return model


def spread(model: Any, entry: Large) -> None:
    """Draw weights that make every part matter. Routers look at a few channels, where each token
    has levels of its own, far apart: which experts it takes is no matter of rounding."""
    import torch

    draw = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for name, weight in [*model.named_parameters(), *biases_of_routers(model)]:
            random = torch.randn(weight.shape, generator=draw)
            if name.endswith(EMBEDDINGS):
                weight.copy_(0.3 * random)
                levels = torch.linspace(-2.0, 2.0, entry.experts)
                for row in weight:
                    row[: entry.experts] = levels[torch.randperm(entry.experts, generator=draw)]
            elif name.endswith((".gate.weight", ".router.weight", ".router.proj.weight")):
                weight.copy_(0.02 * random + torch.eye(*weight.shape))
            elif name.endswith(("bias", "_bias", "sinks", "A_log")):
                weight.copy_(0.1 * random)
            elif name.endswith("linear_attn.norm.weight"):
                weight.copy_(0.2 * random + 1.0)
            elif weight.dim() > 1:
                weight.copy_(0.06 * random)
            else:
                weight.copy_(0.2 * random + (0.0 if entry.zero_norms else 1.0))


EMBEDDINGS = ("embed_tokens.weight", "embeddings.weight")
ROUTER_BIASES = ("correction_bias", "expert_bias", "layer_scalar")


def biases_of_routers(model: Any) -> list[tuple[str, Any]]:
    return [(name, x) for name, x in model.named_buffers() if name.endswith(ROUTER_BIASES)]


def save_large(family: str, directory: Path, *, wide: bool = False, **changes: Any) -> Any:
    """Write config.json and safetensors; returns the model."""
    model = large_model(family, wide=wide, **changes)
    model.save_pretrained(directory)
    return model


class Converted(NamedTuple):
    """A model that is there in three forms.

    Attributes:
        path: the directory; beside it are "f32.gguf" and "q8_0.gguf".
        logits: of transformers, for `random_tokens()`.
    """

    path: Path
    logits: np.ndarray

    def file(self, type_: str) -> Path:
        return self.path.with_name(f"{type_}.gguf")


def convert_large(family: str, folder: Path, **changes: Any) -> Converted:
    model = save_large(family, folder / "model", **changes)
    for type_ in ("f32", "q8_0"):
        convert_model(folder / "model", folder / f"{type_}.gguf", type_)
    return Converted(folder / "model", torch_logits(model, random_tokens()))
