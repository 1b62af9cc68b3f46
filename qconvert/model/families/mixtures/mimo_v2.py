"""MiMo-V2-Flash: values narrower than keys, and scaled; windows in most layers, with twice the
heads of keys, sinks, and rotary positions of their own; leading dense layers, then experts chosen
by sigmoids with a bias added.

llama.cpp scales behind the output projection, transformers the values. Layers that foretell further
tokens (`mtp`) are left out. Files of this family go one way: they are not written back as
directories.
"""

from gguf import ExpertGatingFuncType

from qconvert.checkpoint.metadata import Metadata, f32, flags, i32s, u32
from qconvert.errors import CheckpointError, UnsupportedError
from qconvert.model.families.parts.common import (
    SILU,
    block_count,
    decoder_metadata,
    expect,
    head_size,
    kv_head_count,
    prefixed,
    real,
    whole,
)
from qconvert.model.families.parts.layers import (
    FULL,
    SLIDING,
    blocks_with,
    dense_and_sparse,
    kinds_of_layers,
    only_in,
)
from qconvert.model.families.parts.lines import (
    EMBEDDING,
    FEED_FORWARD,
    IGNORED,
    LAYER,
    NORMS,
    OUTPUT,
    attention,
    attention_biases,
    experts,
)
from qconvert.model.families.parts.rope import (
    check_rope,
    rope_metadata,
    rope_parameters,
    sliding_rope,
    without_older,
)
from qconvert.model.types import Config, Family, Rule

NAME = "mimo2"
INTERVAL = 6
"""Of layers with full attention, where nothing is said; the first is one too."""

SHAPES = {
    "attn_v.weight": ("values", "hidden"),
    "attn_v.bias": ("values",),
    "attn_output.weight": ("hidden", "mixed"),
}

DEFAULTS = {
    "vocab_size": 152_576,
    "hidden_size": 4096,
    "intermediate_size": 16_384,
    "num_hidden_layers": 48,
    "num_attention_heads": 64,
    "num_key_value_heads": 4,
    "max_position_embeddings": 131_072,
    "rms_norm_eps": 1e-5,
    "moe_intermediate_size": 2048,
    "num_experts_per_tok": 8,
    "n_routed_experts": 256,
    "n_group": 1,
    "topk_group": 1,
    "head_dim": 192,
    "v_head_dim": 128,
    "sliding_window": 129,
    "attention_value_scale": 0.707,
    "rope_parameters": {
        FULL: {
            "rope_type": "default",
            "rope_theta": 5_000_000.0,
            "partial_rotary_factor": 0.334,
        },
        SLIDING: {"rope_type": "default", "rope_theta": 10_000.0, "partial_rotary_factor": 0.334},
    },
}


def _kinds(config: Config) -> list[str]:
    count = block_count(config)
    if config.get("layer_types") is not None:
        return kinds_of_layers(config, "layer_types", (FULL, SLIDING), count)
    full = (block == 0 or (block + 1) % INTERVAL == 0 for block in range(count))
    return [FULL if one else SLIDING for one in full]


def _window(config: Config) -> int:
    """Published settings count the tokens before the one that looks."""
    if config.get("sliding_window_size") is not None:
        return whole(config, "sliding_window_size") + 1
    return whole(config, "sliding_window")


def metadata(config: Config) -> Metadata:
    kinds, own, heads = _kinds(config), without_older(config), kv_head_count(config)
    turning = int(head_size(config) * real(rope_parameters(own), "partial_rotary_factor"))
    keys = {
        "attention.head_count_kv": i32s([heads if kind == FULL else 2 * heads for kind in kinds]),
        "attention.value_length": u32(whole(config, "v_head_dim")),
        "attention.sliding_window": u32(_window(config)),
        "attention.sliding_window_pattern": flags([kind == SLIDING for kind in kinds]),
        "rope.dimension_count": u32(turning),
        "rope.freq_base_swa": f32(real(sliding_rope(own), "rope_theta")),
        "expert_count": u32(whole(config, "n_routed_experts")),
        "expert_used_count": u32(whole(config, "num_experts_per_tok")),
        "expert_feed_forward_length": u32(whole(config, "moe_intermediate_size")),
        "expert_gating_func": u32(ExpertGatingFuncType.SIGMOID),
        "expert_group_count": u32(whole(config, "n_group")),
        "expert_group_used_count": u32(whole(config, "topk_group")),
    }
    if config.get("attention_value_scale") is not None:
        keys["attention.value_scale"] = f32(real(config, "attention_value_scale"))
    return {
        **decoder_metadata(NAME, config),
        **rope_metadata(NAME, own),
        **prefixed(NAME, keys),
    }


def limits(config: Config) -> None:
    own, kinds = without_older(config), _kinds(config)
    expect(config, "hidden_act", SILU)
    expect(config, "rope_scaling", (), "this family has rope_parameters alone")
    expect(config, "norm_topk_prob", (True,), "llama.cpp would behave as if it were true")
    expect(config, "routed_scaling_factor", (1.0,))
    expect(config, "swa_num_key_value_heads", (2 * kv_head_count(config),))
    check_rope(own, partly=True)
    both = rope_parameters(own), sliding_rope(own)
    if len({real(rope, "partial_rotary_factor", default=1.0) for rope in both}) > 1:
        raise UnsupportedError("config.json: llama.cpp turns as much of each head in all layers")
    pattern = config.get("hybrid_layer_pattern")
    if pattern is not None and pattern != [int(kind == SLIDING) for kind in kinds]:
        raise CheckpointError("config.json: hybrid_layer_pattern and layer_types differ")


def rules(config: Config) -> tuple[Rule, ...]:
    kinds, layers = _kinds(config), dense_and_sparse(config, 1)
    source = LAYER + "self_attn."
    sinks = tuple(
        Rule("blk.{i}.attn_sinks.weight", source + name)
        for name in ("attention_sink_bias", "sinks")
    )
    return (
        *EMBEDDING,
        *NORMS,
        *attention(),
        *(attention_biases() if config.get("attention_bias") else ()),
        *only_in(blocks_with(kinds, SLIDING), sinks),
        *only_in(blocks_with(layers, "dense"), FEED_FORWARD),
        *only_in(blocks_with(layers, "sparse"), _experts(config)),
        *OUTPUT,
        *([Rule("output.weight", EMBEDDING[0].hf)] if config.get("tie_word_embeddings") else []),
    )


def _experts(config: Config) -> tuple[Rule, ...]:
    source = LAYER + "mlp."
    return (
        Rule("blk.{i}.ffn_gate_inp.weight", source + "gate.weight"),
        Rule("blk.{i}.exp_probs_b.bias", source + "gate.e_score_correction_bias"),
        *experts(whole(config, "moe_intermediate_size")),
    )


MIMO_V2 = Family(
    name=NAME,
    classes=("MiMoV2FlashForCausalLM",),
    metadata=metadata,
    rules=rules,
    defaults=DEFAULTS,
    aliases={"num_local_experts": "n_routed_experts"},
    limits=limits,
    ignored=IGNORED,
    shapes=SHAPES,
    experts=True,
)
