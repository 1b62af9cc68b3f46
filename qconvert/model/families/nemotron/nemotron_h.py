"""Nemotron-H and Nemotron 3: each layer is one thing alone, state spaces (Mamba 2), attention
without positions, or a feed-forward, of squared ReLU, or of experts, maybe between two projections
of all tokens to fewer channels.

llama.cpp tells the kinds of layers by their heads of keys and their feed-forward, and has models
with experts under another name. Layers that foretell further tokens (`mtp`) are left out. Files of
these families go one way: they are not written back as directories.
"""

from dataclasses import replace
from itertools import chain

from gguf import ExpertGatingFuncType

from qconvert.checkpoint.metadata import Metadata, f32, flag, i32s, u32
from qconvert.errors import UnsupportedError
from qconvert.model.families.parts import mamba2
from qconvert.model.families.parts.common import (
    EPSILONS,
    SILU,
    decoder_metadata,
    expect,
    head_size,
    kv_head_count,
    prefixed,
    real,
    text_config,
    whole,
)
from qconvert.model.families.parts.layers import (
    FULL,
    RECURRENT,
    blocks_with,
    kinds_of_layers,
    only_in,
)
from qconvert.model.families.parts.lines import IGNORED, LAYER, attention
from qconvert.model.types import Config, Family, Rule

NAME, NAME_OF_EXPERTS = "nemotron_h", "nemotron_h_moe"
EXPERTS, DENSE = "moe", "mlp"
KINDS = (RECURRENT, FULL, EXPERTS, DENSE)
LETTERS = {"M": RECURRENT, "*": FULL, "E": EXPERTS, "-": DENSE}
"""Of `hybrid_override_pattern`."""

PATTERN = "ME*-"
"""Where nothing is said."""

SHAPES = {
    **mamba2.SHAPES,
    "ffn_up_exps.weight": ("experts", "expert_ffn", "expert_io"),
    "ffn_down_exps.weight": ("experts", "expert_io", "expert_ffn"),
    "ffn_latent_down.weight": ("expert_io", "hidden"),
    "ffn_latent_up.weight": ("hidden", "expert_io"),
}

DEFAULTS = {
    "vocab_size": 131_072,
    "hidden_size": 4096,
    "intermediate_size": 21_504,
    "num_attention_heads": 32,
    "num_key_value_heads": 8,
    "head_dim": 128,
    "max_position_embeddings": 4096,
    "layer_norm_epsilon": 1e-5,
    "ssm_state_size": 128,
    "mamba_num_heads": 128,
    "mamba_head_dim": 64,
    "n_groups": 8,
    "conv_kernel": 4,
    "use_conv_bias": True,
    "time_step_min": 0.001,
    "n_routed_experts": 8,
    "n_shared_experts": 1,
    "moe_intermediate_size": 7688,
    "moe_shared_expert_intermediate_size": 7688,
    "num_experts_per_tok": 2,
    "routed_scaling_factor": 1.0,
    "n_group": 1,
    "topk_group": 1,
    "norm_topk_prob": True,
}

ALIASES = {
    "layer_types": "layers_block_type",
    "num_local_experts": "n_routed_experts",
    "mamba_n_groups": "n_groups",
    "mamba_d_conv": "conv_kernel",
    "mamba_dt_min": "time_step_min",
    "mamba_conv_bias": "use_conv_bias",
}


def kinds(config: Config) -> list[str]:
    """Of all layers, by the names of today."""
    if config.get("layers_block_type") is not None:
        return kinds_of_layers(config, "layers_block_type", KINDS)
    pattern = config.get("hybrid_override_pattern", PATTERN)
    letters = {**config, "hybrid_override_pattern": list(str(pattern))}
    return kinds_of_layers(letters, "hybrid_override_pattern", KINDS, older=LETTERS)


def sizes(config: Config) -> mamba2.Sizes:
    names = ("mamba_num_heads", "mamba_head_dim", "n_groups", "ssm_state_size", "conv_kernel")
    return mamba2.Sizes(*(whole(config, name) for name in names))


def metadata(config: Config) -> Metadata:
    return _metadata(config, NAME, DENSE, whole(config, "intermediate_size"))


def metadata_of_experts(config: Config) -> Metadata:
    size = whole(config, "moe_intermediate_size")
    keys = {
        "expert_count": u32(whole(config, "n_routed_experts")),
        "expert_used_count": u32(whole(config, "num_experts_per_tok")),
        "expert_feed_forward_length": u32(size),
        "expert_shared_feed_forward_length": u32(
            whole(config, "moe_shared_expert_intermediate_size")
        ),
        "expert_shared_count": u32(whole(config, "n_shared_experts")),
        "expert_weights_norm": flag(config.get("norm_topk_prob") is True),
        "expert_weights_scale": f32(real(config, "routed_scaling_factor")),
        "expert_gating_func": u32(ExpertGatingFuncType.SIGMOID),
        "expert_group_count": u32(whole(config, "n_group")),
        "expert_group_used_count": u32(whole(config, "topk_group")),
    }
    if config.get("moe_latent_size") is not None:
        keys["moe_latent_size"] = u32(whole(config, "moe_latent_size"))
    return {
        **_metadata(config, NAME_OF_EXPERTS, EXPERTS, size),
        **prefixed(NAME_OF_EXPERTS, keys),
    }


def _metadata(config: Config, name: str, wide: str, width: int) -> Metadata:
    """
    Args:
        wide: the kind of layers that are a feed-forward, of that `width`.
    """
    layers = kinds(config)
    epsilon = "layer_norm_epsilon"
    every = {**config, "num_hidden_layers": len(layers)}
    keys = {
        "context_length": u32(mamba2.NO_LIMIT),
        "feed_forward_length": i32s([width if kind == wide else 0 for kind in layers]),
        "attention.head_count_kv": i32s(
            [kv_head_count(config) if kind == FULL else 0 for kind in layers]
        ),
        "attention.key_length": u32(head_size(config)),
        "attention.value_length": u32(head_size(config)),
        EPSILONS["rms"]: f32(real(config, epsilon)),
        "rope.scaling.finetuned": flag(False),
    }
    return {
        **decoder_metadata(name, every, (epsilon, EPSILONS["layer"])),
        **mamba2.metadata(name, sizes(config)),
        **prefixed(name, keys),
    }


def limits(config: Config) -> None:
    mamba2.check(sizes(config))
    if {EXPERTS, DENSE} <= set(kinds(config)):
        raise UnsupportedError(
            "config.json: layers_block_type has moe and mlp; llama.cpp runs one or the other"
        )
    expect(config, "mlp_hidden_act", ("relu2",))
    expect(config, "mamba_hidden_act", SILU)
    for name in ("use_bias", "attention_bias", "mamba_proj_bias"):
        expect(config, name, (False,))
    expect(config, "use_conv_bias", (True,))
    expect(config, "sliding_window", ())
    if EXPERTS in kinds(config):
        expect(config, "mlp_bias", (False,), "llama.cpp has no biases of experts here")


def caveats(config: Config) -> tuple[str, ...]:
    least = real(config, "time_step_min")
    if least <= 0:
        return ()
    return (
        f"transformers takes steps of state spaces below time_step_min = {least:g} for as large, "
        "llama.cpp as they are: logits may differ a little",
    )


def rules(config: Config) -> tuple[Rule, ...]:
    layers, source = kinds(config), LAYER + "mixer."
    mixer = mamba2.layer(source, sizes(config))
    parts = (
        (RECURRENT, mixer),
        (FULL, attention(source=source)),
        (DENSE, _dense(config, source)),
        (EXPERTS, _experts(config, source)),
    )
    return (
        Rule("token_embd.weight", "model.embeddings.weight"),
        Rule("blk.{i}.attn_norm.weight", LAYER + "norm.weight"),
        *chain.from_iterable(only_in(blocks_with(layers, kind), table) for kind, table in parts),
        Rule("output_norm.weight", "model.norm_f.weight"),
        Rule("output.weight", "lm_head.weight", optional=True),
    )


def _dense(config: Config, source: str) -> tuple[Rule, ...]:
    names = ("weight", "bias") if config.get("mlp_bias") else ("weight",)
    return tuple(
        Rule(f"blk.{{i}}.ffn_{part}.{name}", f"{source}{part}_proj.{name}")
        for part in ("up", "down")
        for name in names
    )


def _experts(config: Config, source: str) -> tuple[Rule, ...]:
    """Without gates; those of all layers have one for all tokens besides."""
    latent = (
        Rule("blk.{i}.ffn_latent_down.weight", source + "fc1_latent_proj.weight"),
        Rule("blk.{i}.ffn_latent_up.weight", source + "fc2_latent_proj.weight"),
    )
    return (
        Rule("blk.{i}.ffn_gate_inp.weight", source + "gate.weight"),
        Rule("blk.{i}.exp_probs_b.bias", source + "gate.e_score_correction_bias"),
        *(latent if config.get("moe_latent_size") is not None else ()),
        Rule("blk.{i}.ffn_up_exps.weight", source + "experts.{e}.up_proj.weight"),
        Rule("blk.{i}.ffn_down_exps.weight", source + "experts.{e}.down_proj.weight"),
        Rule("blk.{i}.ffn_up_exps.weight", source + "experts.up_proj"),
        Rule("blk.{i}.ffn_down_exps.weight", source + "experts.down_proj"),
        Rule("blk.{i}.ffn_up_shexp.weight", source + "shared_experts.up_proj.weight"),
        Rule("blk.{i}.ffn_down_shexp.weight", source + "shared_experts.down_proj.weight"),
    )


NEMOTRON_H = Family(
    name=NAME,
    classes=("NemotronHForCausalLM",),
    metadata=metadata,
    rules=rules,
    defaults=DEFAULTS,
    aliases=ALIASES,
    limits=limits,
    caveats=caveats,
    ignored=IGNORED,
    shapes=SHAPES,
)

NEMOTRON_H_MOE = replace(
    NEMOTRON_H, name=NAME_OF_EXPERTS, metadata=metadata_of_experts, experts=True
)


def nemotron_of(config: Config) -> Family:
    """The one with experts, where a layer has them."""
    several = EXPERTS in kinds(text_config(NEMOTRON_H, config))
    return NEMOTRON_H_MOE if several else NEMOTRON_H
