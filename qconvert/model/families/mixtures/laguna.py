"""Laguna: query heads that differ between layers, windows in some, with rotary positions of their
own, a gate behind attention, for each head or for each of its elements, norms of queries and keys,
leading dense layers, experts chosen by sigmoids with a bias added, and one for all tokens besides.

Files of this family go one way: they are not written back as directories.
"""

from dataclasses import replace

from gguf import ExpertGatingFuncType

from qconvert.checkpoint.metadata import Metadata, f32, flag, flags, i32s, u32
from qconvert.errors import CheckpointError
from qconvert.model.families.parts.common import (
    SILU,
    block_count,
    decoder_metadata,
    expect,
    head_count,
    head_size,
    prefixed,
    real,
    text_config,
    whole,
)
from qconvert.model.families.parts.layers import (
    FULL,
    SLIDING,
    blocks_with,
    dense_and_sparse,
    kinds_of_layers,
    leading_dense,
    only_in,
)
from qconvert.model.families.parts.lines import (
    EMBEDDING,
    FEED_FORWARD,
    IGNORED,
    LAYER,
    NORMS,
    OUTPUT,
    QK_NORMS,
    attention,
    experts,
    gated,
)
from qconvert.model.families.parts.rope import (
    check_rope,
    rope_metadata,
    rope_parameters,
    sliding_rope,
    without_older,
)
from qconvert.model.types import Config, Family, Rule

NAME = "laguna"

SHAPES = {"attn_gate.weight": ("heads", "hidden")}
SHAPES_OF_ELEMENTS = {"attn_gate.weight": ("query", "hidden")}

DEFAULTS = {
    "vocab_size": 100_352,
    "hidden_size": 2048,
    "intermediate_size": 8192,
    "num_hidden_layers": 40,
    "num_attention_heads": 48,
    "num_key_value_heads": 8,
    "head_dim": 128,
    "max_position_embeddings": 131_072,
    "rms_norm_eps": 1e-6,
    "sliding_window": 512,
    "moe_intermediate_size": 512,
    "shared_expert_intermediate_size": 512,
    "num_experts_per_tok": 8,
    "num_experts": 256,
    "gating": True,
    "moe_routed_scaling_factor": 1.0,
    "moe_router_logit_softcapping": 0.0,
    "rope_parameters": {
        FULL: {"rope_type": "default", "rope_theta": 500_000.0, "partial_rotary_factor": 0.5},
        SLIDING: {"rope_type": "default", "rope_theta": 10_000.0, "partial_rotary_factor": 1.0},
    },
}


def _kinds(config: Config) -> list[str]:
    count = block_count(config)
    if config.get("layer_types") is None:
        return [FULL] * count
    return kinds_of_layers(config, "layer_types", (FULL, SLIDING), count)


def _heads(config: Config) -> list[int]:
    """Query heads of each layer."""
    count = block_count(config)
    given = config.get("num_attention_heads_per_layer")
    if given is None:
        return [head_count(config)] * count
    if not isinstance(given, list) or len(given) != count:
        raise CheckpointError(
            f"config.json: num_attention_heads_per_layer is no list of {count} numbers"
        )
    return [head_count({"num_attention_heads": one}) for one in given]


def metadata(config: Config) -> Metadata:
    kinds, own = _kinds(config), without_older(config)
    size, turning = head_size(config), rope_parameters(own)
    keys: Metadata = {
        "attention.head_count": i32s(_heads(config)),
        "expert_count": u32(whole(config, "num_experts")),
        "expert_used_count": u32(whole(config, "num_experts_per_tok")),
        "expert_feed_forward_length": u32(whole(config, "moe_intermediate_size")),
        "expert_shared_feed_forward_length": u32(whole(config, "shared_expert_intermediate_size")),
        "expert_weights_norm": flag(True),
        "expert_weights_scale": f32(real(config, "moe_routed_scaling_factor")),
        "expert_gating_func": u32(ExpertGatingFuncType.SIGMOID),
        "leading_dense_block_count": u32(dense_and_sparse(config, 1).count("dense")),
        "rope.dimension_count": u32(int(size * real(turning, "partial_rotary_factor"))),
    }
    if SLIDING in kinds:
        windowed = sliding_rope(own)
        part = real(windowed, "partial_rotary_factor", default=1.0)
        keys |= {
            "attention.sliding_window": u32(whole(config, "sliding_window")),
            "attention.sliding_window_pattern": flags([kind == SLIDING for kind in kinds]),
            "rope.freq_base_swa": f32(real(windowed, "rope_theta")),
            "rope.dimension_count_swa": u32(int(size * part)),
        }
    return {
        **decoder_metadata(NAME, config),
        **rope_metadata(NAME, own),
        **prefixed(NAME, keys),
    }


def limits(config: Config) -> None:
    expect(config, "hidden_act", SILU)
    expect(config, "rope_scaling", (), "this family has rope_parameters alone")
    expect(config, "attention_bias", (False,))
    expect(config, "gating", (True, "per-head", "per-element"))
    expect(config, "moe_router_logit_softcapping", (0.0,))
    expect(config, "moe_apply_router_weight_on_input", (False,))
    check_rope(without_older(config), partly=True)
    leading_dense(dense_and_sparse(config, 1))


def rules(config: Config) -> tuple[Rule, ...]:
    layers = dense_and_sparse(config, 1)
    return (
        *EMBEDDING,
        *NORMS,
        *attention(),
        *QK_NORMS,
        Rule("blk.{i}.attn_gate.weight", LAYER + "self_attn.g_proj.weight"),
        *only_in(blocks_with(layers, "dense"), FEED_FORWARD),
        *only_in(blocks_with(layers, "sparse"), _experts(config)),
        *OUTPUT,
    )


def _experts(config: Config) -> tuple[Rule, ...]:
    source = LAYER + "mlp."
    return (
        Rule("blk.{i}.ffn_gate_inp.weight", source + "gate.weight"),
        Rule("blk.{i}.exp_probs_b.bias", source + "experts.e_score_correction_bias"),
        Rule("blk.{i}.exp_probs_b.bias", source + "gate.e_score_correction_bias"),
        *experts(whole(config, "moe_intermediate_size")),
        *gated(source + "shared_expert.", "_shexp"),
        *gated(source + "shared_experts.", "_shexp"),
    )


LAGUNA = Family(
    name=NAME,
    classes=("LagunaForCausalLM",),
    metadata=metadata,
    rules=rules,
    defaults=DEFAULTS,
    aliases={"num_local_experts": "num_experts"},
    limits=limits,
    ignored=IGNORED,
    shapes=SHAPES,
    experts=True,
)

LAGUNA_OF_ELEMENTS = replace(LAGUNA, shapes=SHAPES_OF_ELEMENTS)


def laguna_of(config: Config) -> Family:
    """The one whose gates are of that kind."""
    gating = text_config(LAGUNA, config).get("gating")
    return LAGUNA_OF_ELEMENTS if gating == "per-element" else LAGUNA
