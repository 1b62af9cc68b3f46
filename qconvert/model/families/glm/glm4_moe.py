"""GLM-4.5 to 4.7: experts chosen by sigmoids behind some dense blocks, and one for all tokens.

Layers that foretell further tokens stand behind the last block and are left out.
"""

from dataclasses import replace

from gguf import ExpertGatingFuncType

from qconvert.model.families.decoder.family import family_of
from qconvert.model.families.decoder.types import (
    RENAMED,
    SILU_ONLY,
    Attention,
    Decoder,
    Experts,
    Only,
    Rope,
    Shared,
)
from qconvert.model.families.deepseek.deepseek import further_layers

DECODER = Decoder(
    name="glm4moe",
    model_type="glm4_moe",
    classes=("Glm4MoeForCausalLM",),
    defaults={
        "vocab_size": 151_552,
        "hidden_size": 4096,
        "intermediate_size": 10_944,
        "num_hidden_layers": 46,
        "num_attention_heads": 96,
        "num_key_value_heads": 8,
        "max_position_embeddings": 131_072,
        "rms_norm_eps": 1e-5,
        "rope_theta": 10000.0,
        "partial_rotary_factor": 0.5,
        "moe_intermediate_size": 1408,
        "num_experts_per_tok": 8,
        "n_shared_experts": 1,
        "n_routed_experts": 128,
        "routed_scaling_factor": 1.0,
        "first_k_dense_replace": 1,
        "norm_topk_prob": True,
    },
    norms=RENAMED,
    attention=Attention(output_bias=False, qk_norms="heads", qk_normed="use_qk_norm"),
    rope=Rope(partly=True, counted=True),
    experts=Experts(
        count="n_routed_experts",
        correction=("mlp.gate.e_score_correction_bias",),
        gating=ExpertGatingFuncType.SIGMOID,
        scale="routed_scaling_factor",
        normalised="norm_topk_prob",
        shared=Shared(
            "n_shared_experts",
            "expert_shared_count",
            tuple(f"mlp.shared_experts.{part}_proj.weight" for part in ("gate", "up", "down")),
        ),
        leading="first_k_dense_replace",
    ),
    only=(SILU_ONLY, Only("n_group", (1,)), Only("topk_group", (1,))),
    aliases={"num_local_experts": "n_routed_experts", "num_mtp_layers": "num_nextn_predict_layers"},
)

GLM4_MOE = replace(family_of(DECODER), dropped=further_layers)
