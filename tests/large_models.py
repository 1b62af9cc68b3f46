"""Tiny models of families with mixed layers: experts with biases, linear attention, latent keys.

Each is made once for all tests that look at it (`large` in `conftest.py`).
"""

from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from common import VOCABULARY, convert_model, random_tokens, torch_logits
from hybrid_models import HYBRID, LATENT, WIDE, WIDE_HEADLESS, WIDE_LATENT, Large

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

_COPIES: dict[str, Any] = {
    "hidden_size": 96,
    "intermediate_size": 1024,
    "num_hidden_layers": 25,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 40,
    "vocab_size_per_layer_input": VOCABULARY - 3,
    "num_kv_shared_layers": 5,
    "sliding_window": 16,
    "rope_parameters": {
        "full_attention": {"rope_type": "default", "rope_theta": 500000.0},
        "sliding_attention": {"rope_type": "default", "rope_theta": 20000.0},
    },
}

_WRITERS = (
    *("attention_layernorm", "feedforward_layernorm", "laurel_norm", "per_layer_input_norm"),
)
"""Norms of what is added, which small errors must not be multiplied by."""

_WIDE_LINEAR = WIDE | {
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
    **WIDE_HEADLESS,
    "layer_types": (["conv"] * 2 + ["full_attention", "conv"]) * 2,
    "intermediate_size": 768,
    "block_multiple_of": 256,
}
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
        WIDE,
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
    "gemma3n": Large(
        "Gemma3nForCausalLM",
        "Gemma3nTextConfig",
        _COPIES,
        {"hidden_size": 256, "num_attention_heads": 8, "head_dim": 32},
        scaled={f"post_{of}.weight": 0.2 for of in _WRITERS} | {"modality_router.weight": 30.0},
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
    "deepseek_v3": Large("DeepseekV3ForCausalLM", "DeepseekV3Config", LATENT, WIDE_LATENT),
    "glm4_moe_lite": Large(
        "Glm4MoeLiteForCausalLM",
        "Glm4MoeLiteConfig",
        LATENT | {"n_group": 1, "topk_group": 1},
        WIDE_LATENT,
    ),
    "deepseek_v2": Large(
        "DeepseekV2ForCausalLM",
        "DeepseekV2Config",
        LATENT | {"hidden_size": 192, "norm_topk_prob": False, "n_group": None, "topk_group": None},
        WIDE_LATENT,
    ),
    **HYBRID,
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
            for end, factor in entry.scaled.items():
                weight.mul_(factor if name.endswith(end) else 1.0)


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
