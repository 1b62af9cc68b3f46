"""Jamba (arXiv 2403.19887): layers of state spaces (Mamba, with norms of steps, B and C), one of
attention without positions among so many, and experts in every nth layer.

Files of this family go one way: they are not written back as directories.
"""

from itertools import chain

from qconvert.checkpoint.metadata import Metadata, i32s, u32
from qconvert.errors import CheckpointError
from qconvert.model.families.parts import mamba1
from qconvert.model.families.parts.common import (
    SILU,
    block_count,
    decoder_metadata,
    expect,
    heads_fill_width,
    kv_head_count,
    prefixed,
    whole,
)
from qconvert.model.families.parts.layers import only_in, other_blocks
from qconvert.model.families.parts.lines import (
    EMBEDDING,
    IGNORED,
    LAYER,
    attention,
    experts,
    gated,
)
from qconvert.model.types import Config, Family, Rule

NAME = "jamba"

SHAPES = {
    **mamba1.SHAPES,
    "ssm_dt_norm.weight": ("linear_heads",),
    "ssm_b_norm.weight": ("linear_head",),
    "ssm_c_norm.weight": ("linear_head",),
}

DEFAULTS = {
    "vocab_size": 65_536,
    "hidden_size": 4096,
    "intermediate_size": 14_336,
    "num_hidden_layers": 32,
    "num_attention_heads": 32,
    "num_key_value_heads": 8,
    "max_position_embeddings": 262_144,
    "rms_norm_eps": 1e-6,
    "num_experts_per_tok": 2,
    "num_experts": 16,
    "expert_layer_period": 2,
    "expert_layer_offset": 1,
    "attn_layer_period": 8,
    "attn_layer_offset": 4,
    "mamba_d_state": 16,
    "mamba_d_conv": 4,
    "mamba_expand": 2,
    "mamba_dt_rank": "auto",
}


def _each(config: Config, kind: str) -> tuple[int, ...]:
    """The layers of attention ("attn") or with experts ("expert"): one of so many."""
    period, name = whole(config, f"{kind}_layer_period"), f"{kind}_layer_offset"
    offset: int = config.get(name, 0)
    if type(offset) is not int or not 0 <= offset < period:
        raise CheckpointError(f"config.json: {name} is {offset!r:.60}, not below {period}")
    return tuple(range(offset, block_count(config), period))


def _sparse(config: Config) -> tuple[int, ...]:
    return _each(config, "expert") if whole(config, "num_experts") > 1 else ()


def _inner(config: Config) -> int:
    return whole(config, "mamba_expand") * whole(config, "hidden_size")


def metadata(config: Config) -> Metadata:
    attending, count = _each(config, "attn"), block_count(config)
    taps, state = whole(config, "mamba_d_conv"), whole(config, "mamba_d_state")
    steps = mamba1.rank_of_steps(config, "mamba_dt_rank")
    heads = [kv_head_count(config) if block in attending else 0 for block in range(count)]
    keys = {"attention.head_count_kv": i32s(heads)}
    if whole(config, "num_experts") > 1:
        keys["expert_count"] = u32(whole(config, "num_experts"))
        keys["expert_used_count"] = u32(whole(config, "num_experts_per_tok"))
    return {
        **decoder_metadata(NAME, config),
        **mamba1.metadata(NAME, _inner(config), taps, state, steps),
        **prefixed(NAME, keys),
    }


def limits(config: Config) -> None:
    heads_fill_width(config)
    _sparse(config)
    expect(config, "hidden_act", SILU)
    expect(config, "mamba_expand", (2,))
    expect(config, "mamba_conv_bias", (True,))
    expect(config, "mamba_proj_bias", (False,))


def rules(config: Config) -> tuple[Rule, ...]:
    attending, sparse = _each(config, "attn"), _sparse(config)
    recurrent, dense = other_blocks(config, attending), other_blocks(config, sparse)
    taps, source = whole(config, "mamba_d_conv"), LAYER + "feed_forward."
    router = Rule("blk.{i}.ffn_gate_inp.weight", source + "router.weight")
    tables = (
        (attending, attention()),
        (recurrent, (*mamba1.layer(LAYER + "mamba.", _inner(config), taps), *_NORMS)),
        (dense, gated(source)),
        (sparse, (router, *experts(whole(config, "intermediate_size"), source))),
    )
    return (
        *EMBEDDING,
        Rule("blk.{i}.attn_norm.weight", LAYER + "input_layernorm.weight"),
        Rule("blk.{i}.ffn_norm.weight", LAYER + "pre_ff_layernorm.weight"),
        *chain.from_iterable(only_in(blocks, table) for blocks, table in tables),
        Rule("output_norm.weight", "model.final_layernorm.weight"),
        Rule("output.weight", "lm_head.weight", optional=True),
    )


_NORMS = tuple(
    Rule(f"blk.{{i}}.ssm_{part}_norm.weight", f"{LAYER}mamba.{part}_layernorm.weight")
    for part in ("dt", "b", "c")
)

JAMBA = Family(
    name=NAME,
    classes=("JambaForCausalLM",),
    metadata=metadata,
    rules=rules,
    defaults=DEFAULTS,
    aliases={"num_local_experts": "num_experts"},
    limits=limits,
    ignored=IGNORED,
    shapes=SHAPES,
    experts=True,
)
