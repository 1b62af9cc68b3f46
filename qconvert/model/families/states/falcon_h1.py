"""Falcon-H1: state spaces (Mamba 2) and attention side by side in each layer, with factors at every
turn, which GGUF has multiplied into the weights.

    ssm_multipliers        of gate, x, B, C and steps: rows of in_proj
    the others             of whole matrices

Weights that are so multiplied are made without feedback. Files of this family go one way: they are
not written back as directories.
"""

from dataclasses import replace

from qconvert.checkpoint.metadata import Metadata, u32
from qconvert.errors import CheckpointError, UnsupportedError
from qconvert.model.families.parts import mamba2
from qconvert.model.families.parts.common import (
    SILU,
    decoder_metadata,
    expect,
    head_size,
    prefixed,
    real,
    whole,
)
from qconvert.model.families.parts.lines import EMBEDDING, IGNORED, LAYER, attention, gated
from qconvert.model.families.parts.rope import check_rope, rope_metadata
from qconvert.model.transforms import Scale
from qconvert.model.types import Config, Family, Rule

NAME = "falcon-h1"
MIXER = LAYER + "mamba."

SHAPES = {**mamba2.SHAPES, "ffn_norm": ("hidden",)}

FACTORS = (
    "embedding_multiplier",
    "lm_head_multiplier",
    "key_multiplier",
    "attention_in_multiplier",
    "attention_out_multiplier",
    "ssm_in_multiplier",
    "ssm_out_multiplier",
)

DEFAULTS = {
    "vocab_size": 128_000,
    "hidden_size": 4096,
    "intermediate_size": 14_336,
    "num_hidden_layers": 32,
    "num_attention_heads": 32,
    "num_key_value_heads": 8,
    "max_position_embeddings": 8192,
    "rms_norm_eps": 1e-5,
    "rope_theta": 10_000.0,
    "mamba_d_ssm": 1024,
    "mamba_n_heads": 128,
    "mamba_n_groups": 1,
    "mamba_d_state": 256,
    "mamba_d_conv": 4,
    "mamba_norm_before_gate": True,
    "mamba_rms_norm": False,
    **dict.fromkeys(FACTORS, 1.0),
}


def sizes(config: Config) -> mamba2.Sizes:
    heads, inner = whole(config, "mamba_n_heads"), whole(config, "mamba_d_ssm")
    if inner % heads:
        raise CheckpointError(f"config.json: {inner} channels for {heads} heads (mamba_n_heads)")
    names = ("mamba_n_groups", "mamba_d_state", "mamba_d_conv")
    return mamba2.Sizes(heads, inner // heads, *(whole(config, name) for name in names))


def _factors(config: Config, name: str, count: int) -> list[float]:
    """Several in one setting; none given are ones."""
    given = config.get(name, [1.0] * count)
    if not isinstance(given, list | tuple) or len(given) != count:
        raise CheckpointError(f"config.json: {name} is no list of {count} numbers")
    return [real({name: one}, name) for one in given]


def metadata(config: Config) -> Metadata:
    size = head_size(config)
    keys = {"attention.key_length": u32(size), "attention.value_length": u32(size)}
    return {
        **decoder_metadata(NAME, config),
        **rope_metadata(NAME, config),
        **mamba2.metadata(NAME, sizes(config)),
        **prefixed(NAME, keys),
    }


def limits(config: Config) -> None:
    own = sizes(config)
    mamba2.check(own)
    mamba2.check_steps(config)
    check_rope(config)
    expect(config, "hidden_act", SILU)
    expect(config, "mamba_d_head", ("auto", own.head))
    expect(config, "mamba_conv_bias", (True,))
    for name in ("attention_bias", "mlp_bias", "mamba_proj_bias", "projectors_bias"):
        expect(config, name, (False,))
    if config.get("mamba_rms_norm") and config.get("mamba_norm_before_gate"):
        raise UnsupportedError(
            "config.json: llama.cpp has the norm of state spaces behind the gate "
            "(mamba_norm_before_gate)"
        )


def rules(config: Config) -> tuple[Rule, ...]:
    factors = {name: real(config, name) for name in FACTORS}
    (embedding,) = EMBEDDING
    output = "output.weight"
    tied = config.get("tie_word_embeddings")
    head = (Scale(factors["lm_head_multiplier"]),)
    return (
        replace(embedding, steps=(Scale(factors["embedding_multiplier"]),)),
        Rule("blk.{i}.attn_norm.weight", LAYER + "input_layernorm.weight"),
        Rule("blk.{i}.ffn_norm", LAYER + "pre_ff_layernorm.weight"),
        *_attention(factors),
        *_mixer(config, factors),
        *_feed_forward(config),
        Rule("output_norm.weight", "model.final_layernorm.weight"),
        Rule(output, "lm_head.weight", optional=True, steps=head),
        *([Rule(output, embedding.hf, steps=head)] if tied else []),
    )


def _attention(factors: dict[str, float]) -> tuple[Rule, ...]:
    into = factors["attention_in_multiplier"]
    scales = (into, into * factors["key_multiplier"], into, factors["attention_out_multiplier"])
    return tuple(
        replace(rule, steps=(Scale(scale),))
        for rule, scale in zip(attention(), scales, strict=True)
    )


def _mixer(config: Config, factors: dict[str, float]) -> tuple[Rule, ...]:
    own = sizes(config)
    shared = own.groups * own.state
    heights = (own.inner, own.inner, shared, shared, own.heads)
    ends = [sum(heights[: part + 1]) for part in range(len(heights))]
    runs = tuple((end - height, end) for end, height in zip(ends, heights, strict=True))
    into = factors["ssm_in_multiplier"]
    scales = tuple(into * one for one in _factors(config, "ssm_multipliers", len(runs)))
    first, *usual, last = mamba2.layer(MIXER, own, bool(config.get("mamba_rms_norm")))
    return (
        replace(first, runs=runs, run_scales=scales),
        *usual,
        replace(last, steps=(Scale(factors["ssm_out_multiplier"]),)),
    )


def _feed_forward(config: Config) -> tuple[Rule, ...]:
    gate, up, down = gated(LAYER + "feed_forward.")
    of_gate, of_down = _factors(config, "mlp_multipliers", 2)
    return (
        replace(gate, steps=(Scale(of_gate),)),
        up,
        replace(down, steps=(Scale(of_down),)),
    )


FALCON_H1 = Family(
    name=NAME,
    classes=("FalconH1ForCausalLM",),
    metadata=metadata,
    rules=rules,
    defaults=DEFAULTS,
    limits=limits,
    ignored=IGNORED,
    shapes=SHAPES,
)
