"""The encoders of T5 (arXiv 1910.10683) and UMT5, which image and video models read prompts with:
norms before each part, no biases, and attention that adds a learned number for each distance
between two tokens, by buckets of distances. T5 has the numbers in its first block, UMT5 in each.
"""

from dataclasses import replace

from qconvert.checkpoint.metadata import Metadata, f32, flag, u32
from qconvert.model.families.parts.common import (
    EPSILONS,
    decoder_metadata,
    expect,
    prefixed,
    real,
    whole,
)
from qconvert.model.families.parts.lines import DRAWN
from qconvert.model.types import Config, Family, Rule

NAME = "t5encoder"
BLOCK, LAYER = "enc.blk.{i}.", "encoder.block.{i}.layer."
BUCKETS = "attention.relative_buckets_count"
FARTHEST = 128
"""llama.cpp's own distance from which all are one bucket."""

DEFAULTS = {
    "vocab_size": 32_128,
    "hidden_size": 512,
    "head_dim": 64,
    "intermediate_size": 2048,
    "num_hidden_layers": 6,
    "num_attention_heads": 8,
    "max_position_embeddings": 512,
    "relative_attention_num_buckets": 32,
    "relative_attention_max_distance": FARTHEST,
    "rms_norm_eps": 1e-6,
    "feed_forward_proj": "relu",
}
ALIASES = {
    "d_model": "hidden_size",
    "d_kv": "head_dim",
    "d_ff": "intermediate_size",
    "num_layers": "num_hidden_layers",
    "num_heads": "num_attention_heads",
    "n_positions": "max_position_embeddings",
    "layer_norm_epsilon": "rms_norm_eps",
}
GATED = "gated-gelu"


def metadata(config: Config) -> Metadata:
    keys = {
        EPSILONS["layer"]: f32(real(config, "rms_norm_eps")),
        BUCKETS: u32(whole(config, "relative_attention_num_buckets")),
        "attention.causal": flag(False),
    }
    return {**decoder_metadata(NAME, config), **prefixed(NAME, keys)}


def limits(config: Config) -> None:
    expect(config, "feed_forward_proj", ("relu", GATED))
    expect(config, "relative_attention_max_distance", (FARTHEST,))


def rules(config: Config) -> tuple[Rule, ...]:
    return _rules(config, (0,))


def rules_of_umt5(config: Config) -> tuple[Rule, ...]:
    return _rules(config, None)


def _rules(config: Config, biased: tuple[int, ...] | None) -> tuple[Rule, ...]:
    """The table.

    Args:
        biased: the blocks that have numbers for distances.
    """
    attention, feed_forward = LAYER + "0.SelfAttention.", LAYER + "1.DenseReluDense."
    inner: tuple[str, ...] = ("wi",)
    if config["feed_forward_proj"] == GATED:
        inner = ("wi_0", "wi_1")
    return (
        Rule("token_embd.weight", "shared.weight"),
        Rule("token_embd.weight", "encoder.embed_tokens.weight"),
        Rule(f"{BLOCK}attn_norm.weight", LAYER + "0.layer_norm.weight"),
        Rule(
            f"{BLOCK}attn_rel_b.weight",
            attention + "relative_attention_bias.weight",
            blocks=biased,
        ),
        *(Rule(f"{BLOCK}attn_{part}.weight", f"{attention}{part}.weight") for part in "qkvo"),
        Rule(f"{BLOCK}ffn_norm.weight", LAYER + "1.layer_norm.weight"),
        *(
            Rule(f"{BLOCK}ffn_{gguf}.weight", f"{feed_forward}{hf}.weight")
            for gguf, hf in zip(("gate", "up")[-len(inner) :], inner, strict=True)
        ),
        Rule(f"{BLOCK}ffn_down.weight", feed_forward + "wo.weight"),
        Rule("enc.output_norm.weight", "encoder.final_layer_norm.weight"),
    )


SHAPES = {
    "attn_rel_b.weight": ("buckets", "heads"),
    "attn_o.weight": ("hidden", "query"),
    "enc.output_norm.weight": ("hidden",),
}

T5_ENCODER = Family(
    name=NAME,
    classes=("T5EncoderModel",),
    metadata=metadata,
    rules=rules,
    defaults=DEFAULTS,
    aliases=ALIASES,
    limits=limits,
    ignored=(r"(encoder|decoder)\.embed_tokens\.weight",),
    shapes=SHAPES,
    encoder=True,
    unpacked=DRAWN,
)

UMT5_ENCODER = replace(
    T5_ENCODER,
    classes=("UMT5EncoderModel",),
    rules=rules_of_umt5,
    defaults={**DEFAULTS, "vocab_size": 250_112, "num_hidden_layers": 8, "num_attention_heads": 6}
    | {"intermediate_size": 1024, "feed_forward_proj": GATED},
)
