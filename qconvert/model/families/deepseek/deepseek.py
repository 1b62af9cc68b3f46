"""DeepSeek V2 and V3, Kimi K2 and the language model of K2.5, which are V3, and GLM-4.7-Flash
(Glm4MoeLite), which is built alike: latent attention, leading dense layers, then experts with some
besides that every token takes.

V3 and GLM score experts by sigmoids, and choose by scores with a bias added; V2 has softmax.
Layers that foretell further tokens, behind the last, are left out. Files of these families go one
way: they are not written back as directories.
"""

from dataclasses import replace

from qconvert.checkpoint.metadata import Metadata, f32, flag, u32
from qconvert.errors import CheckpointError, UnsupportedError
from qconvert.model.families.parts import latent
from qconvert.model.families.parts.common import SILU, block_count, expect, prefixed, real, whole
from qconvert.model.families.parts.layers import dense_and_sparse, leading_dense, only_in
from qconvert.model.families.parts.lines import (
    EMBEDDING,
    FEED_FORWARD,
    IGNORED,
    LAYER,
    NORMS,
    OUTPUT,
    experts,
    gated,
)
from qconvert.model.types import Config, Family, Rule

NAME = "deepseek2"
SOFTMAX, SIGMOID = 1, 2
"""llama.cpp's numbers of how experts are scored."""

LITE_LAYERS = (26, 27)
"""llama.cpp tells models whose queries have no rank of their own by their number of layers."""

SHAPES = {
    **latent.SHAPES,
    "exp_probs_b.bias": ("experts",),
    "ffn_gate_shexp.weight": ("always_ffn", "hidden"),
    "ffn_up_shexp.weight": ("always_ffn", "hidden"),
    "ffn_down_shexp.weight": ("hidden", "always_ffn"),
}

V2_DEFAULTS = {
    "vocab_size": 32_000,
    "hidden_size": 4096,
    "intermediate_size": 11_008,
    "num_hidden_layers": 32,
    "num_attention_heads": 32,
    "max_position_embeddings": 2048,
    "rms_norm_eps": 1e-6,
    "rope_theta": 10_000.0,
    "first_k_dense_replace": 0,
    "kv_lora_rank": 512,
    "q_lora_rank": 1536,
    "n_routed_experts": 64,
    "n_shared_experts": 2,
    "qk_nope_head_dim": 128,
    "qk_rope_head_dim": 64,
    "v_head_dim": 128,
    "routed_scaling_factor": 1.0,
    "moe_intermediate_size": 1407,
}

V3_DEFAULTS = {
    **V2_DEFAULTS,
    "vocab_size": 129_280,
    "hidden_size": 7168,
    "intermediate_size": 18_432,
    "moe_intermediate_size": 2048,
    "num_hidden_layers": 61,
    "num_attention_heads": 128,
    "n_routed_experts": 256,
    "n_shared_experts": 1,
    "routed_scaling_factor": 2.5,
    "n_group": 8,
    "topk_group": 4,
    "num_experts_per_tok": 8,
    "first_k_dense_replace": 3,
    "norm_topk_prob": True,
    "max_position_embeddings": 4096,
    "rope_interleave": True,
}

GLM_DEFAULTS = {
    **V3_DEFAULTS,
    "vocab_size": 154_880,
    "hidden_size": 2048,
    "intermediate_size": 10_240,
    "moe_intermediate_size": 1536,
    "num_hidden_layers": 47,
    "num_attention_heads": 20,
    "n_routed_experts": 64,
    "routed_scaling_factor": 1.8,
    "q_lora_rank": 768,
    "v_head_dim": 256,
    "qk_nope_head_dim": 192,
    "n_group": 1,
    "topk_group": 1,
    "num_experts_per_tok": 4,
    "first_k_dense_replace": 1,
    "max_position_embeddings": 202_752,
    "rms_norm_eps": 1e-5,
}


def metadata(config: Config, scored: int = SIGMOID, name: str = NAME) -> Metadata:
    keys = {
        "leading_dense_block_count": u32(_leading(config)),
        "expert_count": u32(whole(config, "n_routed_experts")),
        "expert_used_count": u32(whole(config, "num_experts_per_tok")),
        "expert_feed_forward_length": u32(whole(config, "moe_intermediate_size")),
        "expert_shared_count": u32(whole(config, "n_shared_experts")),
        "expert_weights_scale": f32(real(config, "routed_scaling_factor")),
        "expert_gating_func": u32(scored),
    }
    if scored == SIGMOID:
        keys["expert_weights_norm"] = flag(config.get("norm_topk_prob") is True)
        keys["expert_group_count"] = u32(whole(config, "n_group"))
        keys["expert_group_used_count"] = u32(whole(config, "topk_group"))
    return {**latent.metadata(name, config), **prefixed(name, keys)}


def metadata_of_v2(config: Config) -> Metadata:
    return metadata(config, SOFTMAX)


def _leading(config: Config) -> int:
    """How many layers at the beginning have no experts.

    Raises:
        UnsupportedError: others have none either.
    """
    count = block_count(config)
    if config.get("mlp_layer_types") is not None:
        return leading_dense(dense_and_sparse(config, 0))
    first: int = config.get("first_k_dense_replace", 0)
    if type(first) is int and 0 <= first <= count:
        return first
    raise CheckpointError(f"config.json: first_k_dense_replace is {first!r:.60}")


def _limits(config: Config) -> None:
    latent.limits(config)
    _leading(config)
    expect(config, "hidden_act", SILU)
    expect(config, "attention_bias", (False,))
    expect(config, "rope_interleave", (True,))
    if config.get("q_lora_rank") is None and block_count(config) not in LITE_LAYERS:
        raise UnsupportedError(
            "config.json: llama.cpp runs this family without q_lora_rank only with "
            f"{' or '.join(map(str, LITE_LAYERS))} layers"
        )


def limits_of_v2(config: Config) -> None:
    _limits(config)
    expect(config, "topk_method", ("greedy",), "llama.cpp chooses groups in another way")
    expect(config, "norm_topk_prob", (False,), "transformers does not heed it")


def limits_of_v3(config: Config) -> None:
    _limits(config)
    expect(config, "scoring_func", ("sigmoid",))


def rules(config: Config) -> tuple[Rule, ...]:
    count, leading = block_count(config), _leading(config)
    return (
        *EMBEDDING,
        *NORMS,
        *latent.attention(config),
        *only_in(tuple(range(leading)), FEED_FORWARD),
        *only_in(tuple(range(leading, count)), _experts(config)),
        *OUTPUT,
    )


def _experts(config: Config) -> tuple[Rule, ...]:
    source = LAYER + "mlp."
    bias = source + "gate.e_score_correction_bias"
    return (
        Rule("blk.{i}.ffn_gate_inp.weight", source + "gate.weight"),
        Rule("blk.{i}.exp_probs_b.bias", bias, optional=True),
        *experts(whole(config, "moe_intermediate_size")),
        *gated(source + "shared_experts.", "_shexp"),
    )


def further_layers(config: Config) -> tuple[str, ...]:
    """Those behind the last, which foretell further tokens."""
    count, more = block_count(config), config.get("num_nextn_predict_layers", 1)
    numbers = range(count, count + more) if type(more) is int and 0 <= more < 64 else ()
    return tuple(rf"model\.layers\.{number}\..*" for number in numbers)


DEEPSEEK_V2 = Family(
    name=NAME,
    classes=("DeepseekV2ForCausalLM",),
    metadata=metadata_of_v2,
    rules=rules,
    defaults=V2_DEFAULTS,
    aliases={"num_experts": "n_routed_experts"},
    limits=limits_of_v2,
    caveats=latent.caveats,
    ignored=IGNORED,
    shapes=SHAPES,
    experts=True,
)

DEEPSEEK_V3 = Family(
    name=NAME,
    classes=("DeepseekV3ForCausalLM", "KimiK25ForConditionalGeneration"),
    metadata=metadata,
    rules=rules,
    defaults=V3_DEFAULTS,
    aliases={"num_local_experts": "n_routed_experts", "num_mtp_layers": "num_nextn_predict_layers"},
    limits=limits_of_v3,
    caveats=latent.caveats,
    ignored=(*IGNORED, r"(model\.)?(vision_tower|mm_projector|multi_modal_projector)\..*"),
    dropped=further_layers,
    shapes=SHAPES,
    experts=True,
)

GLM4_MOE_LITE = replace(
    DEEPSEEK_V3,
    classes=("Glm4MoeLiteForCausalLM",),
    defaults=GLM_DEFAULTS,
    aliases={"num_local_experts": "n_routed_experts", "head_dim": "qk_rope_head_dim"},
)
