"""Qwen2-MoE (Qwen1.5-MoE and Qwen2-57B): experts, and one besides that a gate weighs."""

from dataclasses import replace

from qconvert.model.families.decoder.family import family_of
from qconvert.model.families.decoder.types import SILU_ONLY, Attention, Experts, Only, Shared
from qconvert.model.families.qwen import qwen2, qwen3_moe

DECODER = replace(
    qwen2.DECODER,
    name="qwen2moe",
    model_type="qwen2_moe",
    classes=("Qwen2MoeForCausalLM",),
    defaults={
        **qwen2.DEFAULTS,
        "hidden_size": 2048,
        "intermediate_size": 5632,
        "num_hidden_layers": 24,
        "num_attention_heads": 16,
        "num_key_value_heads": 16,
        "num_experts": 60,
        "num_experts_per_tok": 4,
        "moe_intermediate_size": 1408,
        "shared_expert_intermediate_size": 5632,
        "norm_topk_prob": False,
        "qkv_bias": True,
    },
    attention=Attention(bias="qkv_bias", output_bias=False, square=True),
    experts=Experts(
        dense=qwen3_moe.dense_blocks,
        shared=Shared("shared_expert_intermediate_size", gate="mlp.shared_expert_gate.weight"),
    ),
    only=(
        SILU_ONLY,
        *qwen3_moe.EVERYWHERE,
        Only("norm_topk_prob", (False,), "llama.cpp would behave as if it were false"),
    ),
    tied_output=True,
    pooled=False,
)

QWEN2_MOE = family_of(DECODER)
