"""Llama 4 (text): experts in every nth layer, chosen by scores before their sigmoid and given
inputs that are multiplied with it, one expert for all tokens besides; attention in chunks with
rotary positions, and in every fourth layer to everything, without.

The experts lie [experts, in, out], gate and up in one. Of a multimodal checkpoint the language
model is taken. Files of this family go one way: they are not written back as directories.
"""

from dataclasses import replace

from qconvert.checkpoint.metadata import Metadata, u32
from qconvert.errors import UnsupportedError
from qconvert.model.families.parts.common import (
    SILU,
    block_count,
    decoder_metadata,
    expect,
    head_size,
    prefixed,
    real,
    whole,
)
from qconvert.model.families.parts.layers import FULL, kinds_of_layers, only_in, other_blocks
from qconvert.model.families.parts.lines import (
    EMBEDDING,
    IGNORED,
    LAYER,
    NORMS,
    OUTPUT,
    attention,
    fused_experts,
    gated,
)
from qconvert.model.families.parts.rope import (
    PLAIN,
    check_rope,
    llama3_factors,
    rope_metadata,
)
from qconvert.model.types import Config, Family, Rule

NAME = "llama4"
CHUNKED = "chunked_attention"
INTERVAL = 4
"""llama.cpp's own idea of which layers see everything."""

CONSTANTS = {"attention_chunk_size": 8192, "floor_scale": 8192, "attn_scale": 0.1}
"""llama.cpp has these built in."""

UNNORMED = 128
"""It tells models without norms of queries and keys by their number of experts."""

DEFAULTS = {
    "vocab_size": 202_048,
    "hidden_size": 5120,
    "intermediate_size": 8192,
    "intermediate_size_mlp": 16_384,
    "num_hidden_layers": 48,
    "num_attention_heads": 40,
    "num_key_value_heads": 8,
    "head_dim": 128,
    "max_position_embeddings": 131_072,
    "rms_norm_eps": 1e-5,
    "rope_theta": 500_000.0,
    "num_experts_per_tok": 1,
    "num_local_experts": 16,
    "interleave_moe_layer_step": 1,
    "use_qk_norm": True,
    "no_rope_layer_interval": INTERVAL,
    "attn_temperature_tuning": True,
    **CONSTANTS,
}


def metadata(config: Config) -> Metadata:
    width = {"intermediate_size": whole(config, "intermediate_size_mlp")}
    keys = {
        "expert_count": u32(whole(config, "num_local_experts")),
        "expert_used_count": u32(whole(config, "num_experts_per_tok")),
        "expert_feed_forward_length": u32(whole(config, "intermediate_size")),
        "interleave_moe_layer_step": u32(whole(config, "interleave_moe_layer_step")),
        "rope.dimension_count": u32(head_size(config)),
    }
    return {
        **decoder_metadata(NAME, {**config, **width}),
        **rope_metadata(NAME, config),
        **prefixed(NAME, keys),
    }


def limits(config: Config) -> None:
    expect(config, "hidden_act", SILU)
    expect(config, "attention_bias", (False,))
    check_rope(config, (*PLAIN, "llama3"))
    for name, value in CONSTANTS.items():
        if real(config, name) != value:
            raise UnsupportedError(f"config.json: llama.cpp runs this family with {name} = {value}")
    if not config.get("attn_temperature_tuning"):
        raise UnsupportedError("config.json: llama.cpp wants attn_temperature_tuning")
    if bool(config.get("use_qk_norm")) is (config.get("num_local_experts") == UNNORMED):
        raise UnsupportedError(
            "config.json: llama.cpp has norms of queries and keys (use_qk_norm) unless there are "
            f"{UNNORMED} experts"
        )
    _check_layers(config)


def _check_layers(config: Config) -> None:
    count = block_count(config)
    turns = [(block + 1) % INTERVAL != 0 for block in range(count)]
    stated = config.get("no_rope_layers")
    if stated:
        if not isinstance(stated, list) or [bool(one) for one in stated[:count]] != turns:
            raise UnsupportedError(
                "config.json: llama.cpp leaves out rotary positions in every fourth layer, "
                "no_rope_layers in others"
            )
    else:
        expect(config, "no_rope_layer_interval", (INTERVAL,))
    if config.get("layer_types") is not None:
        kinds = kinds_of_layers(config, "layer_types", (CHUNKED, FULL), count)
        if [kind == CHUNKED for kind in kinds] != turns:
            raise UnsupportedError(
                "config.json: llama.cpp has full attention in every fourth layer, layer_types in "
                "others"
            )
    if config.get("moe_layers") is not None and config["moe_layers"] != list(_sparse(config)):
        raise UnsupportedError("config.json: llama.cpp has experts in every nth layer (moe_layers)")


def _sparse(config: Config) -> tuple[int, ...]:
    """The layers with experts."""
    step = whole(config, "interleave_moe_layer_step")
    return tuple(range(step - 1, block_count(config), step))


def rules(config: Config) -> tuple[Rule, ...]:
    source = LAYER + "feed_forward."
    sparse = _sparse(config)
    return (
        *EMBEDDING,
        *NORMS,
        *attention(),
        *only_in(other_blocks(config, sparse), gated(source)),
        *only_in(sparse, _experts(config, source)),
        *OUTPUT,
    )


def _experts(config: Config, source: str) -> tuple[Rule, ...]:
    several = fused_experts(whole(config, "intermediate_size"), source + "experts.")
    return (
        Rule("blk.{i}.ffn_gate_inp.weight", source + "router.weight"),
        *(replace(rule, transpose=True) for rule in several),
        *gated(source + "shared_expert.", "_shexp"),
    )


SHAPES = {
    "ffn_gate_shexp.weight": ("expert_ffn", "hidden"),
    "ffn_up_shexp.weight": ("expert_ffn", "hidden"),
    "ffn_down_shexp.weight": ("hidden", "expert_ffn"),
}

LLAMA4 = Family(
    name=NAME,
    classes=("Llama4ForCausalLM", "Llama4ForConditionalGeneration"),
    metadata=metadata,
    rules=rules,
    defaults=DEFAULTS,
    limits=limits,
    constants=llama3_factors,
    ignored=(*IGNORED, r"(model\.)?(vision_model|multi_modal_projector)\..*"),
    shapes=SHAPES,
    experts=True,
)
