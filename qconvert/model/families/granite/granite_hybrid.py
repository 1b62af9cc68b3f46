"""Granite 4: layers of state spaces (Mamba 2) with a few of attention, mostly without positions;
the feed-forward is one for all tokens, with experts beside it where there are any.

Models whose layers all attend are Granite 3 to llama.cpp, with experts or without. Files of this
family go one way: they are not written back as this class.
"""

from dataclasses import replace
from functools import partial

from qconvert.checkpoint.metadata import Metadata, flag, i32s, u32
from qconvert.errors import UnsupportedError
from qconvert.model.families.decoder.metadata import decoder_keys, decoder_limits
from qconvert.model.families.decoder.rules import decoder_rules
from qconvert.model.families.decoder.types import Decoder
from qconvert.model.families.granite import granite, granite_moe
from qconvert.model.families.parts import mamba2
from qconvert.model.families.parts.common import (
    block_count,
    expect,
    kv_head_count,
    prefixed,
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
from qconvert.model.families.parts.lines import LAYER
from qconvert.model.types import Config, Family, Rule

NAME = "granitehybrid"
ROPE = "rope"

DEFAULTS = {
    **granite_moe.DECODER.defaults,
    "shared_intermediate_size": 1024,
    "mamba_n_heads": 128,
    "mamba_n_groups": 1,
    "mamba_d_state": 256,
    "mamba_d_conv": 4,
    "mamba_expand": 2,
    "mamba_conv_bias": True,
}

DENSE = replace(granite.DECODER, feed_forward=None)
"""The feed-forward of models without experts is called that of all tokens."""


def _has_experts(config: Config) -> bool:
    return config.get("num_local_experts") not in (None, 0)


def _decoder(config: Config) -> Decoder:
    return granite_moe.SHARED if _has_experts(config) else DENSE


def kinds(config: Config) -> list[str]:
    if config.get("layer_types") is None:
        return [RECURRENT] * block_count(config)
    return kinds_of_layers(config, "layer_types", (RECURRENT, FULL), block_count(config))


def sizes(config: Config) -> mamba2.Sizes:
    heads = whole(config, "mamba_n_heads")
    inner = whole(config, "mamba_expand") * whole(config, "hidden_size")
    names = ("mamba_n_groups", "mamba_d_state", "mamba_d_conv")
    return mamba2.Sizes(heads, inner // heads, *(whole(config, name) for name in names))


def metadata(name: str, config: Config) -> Metadata:
    """
    Args:
        name: `general.architecture`.
    """
    layers = kinds(config)
    width = "intermediate_size" if _has_experts(config) else "shared_intermediate_size"
    every = {**config, "intermediate_size": whole(config, width)}
    usual = decoder_keys(replace(_decoder(config), name=name), every)
    if RECURRENT not in layers:
        return usual
    keys = {
        "attention.head_count_kv": i32s(
            [kv_head_count(config) if kind == FULL else 0 for kind in layers]
        ),
        "rope.scaling.finetuned": flag(_turns(config)),
    }
    if not _turns(config):
        keys["context_length"] = u32(mamba2.NO_LIMIT)
    return {**usual, **mamba2.metadata(name, sizes(config)), **prefixed(name, keys)}


def _turns(config: Config) -> bool:
    return config.get("position_embedding_type") == ROPE


def limits(config: Config) -> None:
    decoder_limits(_decoder(config), config)
    if RECURRENT not in kinds(config):
        if not _turns(config):
            raise UnsupportedError(
                "config.json: llama.cpp runs models of attention alone with rotary positions only"
            )
        return
    own = sizes(config)
    mamba2.check(own)
    mamba2.check_steps(config)
    expect(config, "mamba_expand", (2,))
    expect(config, "mamba_d_head", ("auto", own.head))
    expect(config, "mamba_proj_bias", (False,))
    expect(config, "mamba_conv_bias", (True,))


def rules(config: Config) -> tuple[Rule, ...]:
    layers = kinds(config)
    *usual, norm, output = decoder_rules(_decoder(config), config)
    mixer = mamba2.layer(LAYER + "mamba.", sizes(config))
    of_attention = [rule for rule in usual if ".self_attn." in rule.hf]
    return (
        *(rule for rule in usual if rule not in of_attention),
        *only_in(blocks_with(layers, FULL), of_attention),
        *only_in(blocks_with(layers, RECURRENT), mixer),
        *(() if _has_experts(config) else _feed_forward(config)),
        norm,
        output,
    )


def _feed_forward(config: Config) -> tuple[Rule, ...]:
    source, width = LAYER + "shared_mlp.", whole(config, "shared_intermediate_size")
    both = source + "input_linear.weight"
    return (
        Rule("blk.{i}.ffn_gate.weight", both, rows=(0, width)),
        Rule("blk.{i}.ffn_up.weight", both, rows=(width, 2 * width)),
        Rule("blk.{i}.ffn_down.weight", source + "output_linear.weight"),
    )


def _family(name: str, *, experts: bool) -> Family:
    return Family(
        name=name,
        classes=("GraniteMoeHybridForCausalLM",),
        metadata=partial(metadata, name),
        rules=rules,
        defaults=DEFAULTS,
        aliases={"layers_block_type": "layer_types"},
        limits=limits,
        ignored=granite.DECODER.ignored,
        shapes=mamba2.SHAPES,
        experts=experts,
    )


GRANITE_HYBRID = _family(NAME, experts=True)
GRANITE_ATTENDING = _family("granite", experts=False)
GRANITE_ATTENDING_MOE = _family("granitemoe", experts=True)


def granite_of(config: Config) -> Family:
    """The one that llama.cpp takes a model for."""
    settings = text_config(GRANITE_HYBRID, config)
    if RECURRENT in kinds(settings):
        return GRANITE_HYBRID
    return GRANITE_ATTENDING_MOE if _has_experts(settings) else GRANITE_ATTENDING
