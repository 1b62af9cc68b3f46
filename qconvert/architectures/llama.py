"""Llama (1 to 3.3) and what is built like it. Rotary pairs are neighbours in llama.cpp."""

from qconvert.architectures.common import (
    decoder_metadata,
    head_count,
    head_size,
    kv_head_count,
    prefixed,
)
from qconvert.architectures.parts import (
    EMBEDDING,
    FEED_FORWARD,
    FEED_FORWARD_BIASES,
    IGNORED,
    NORMS,
    OUTPUT,
    OUTPUT_BIAS,
    attention,
)
from qconvert.architectures.rope import ROPE_TYPES, llama3_factors, rope_metadata, whole_heads_turn
from qconvert.architectures.types import Architecture, Config, Rule
from qconvert.metadata import Metadata, u32

NAME = "llama"


def metadata(config: Config) -> Metadata:
    whole_heads_turn(config)
    return {
        **decoder_metadata(NAME, config),
        **rope_metadata(NAME, config, known=(*ROPE_TYPES, "llama3")),
        **prefixed(NAME, {"rope.dimension_count": u32(head_size(config))}),
    }


def rules(config: Config) -> tuple[Rule, ...]:
    return (
        *EMBEDDING,
        *NORMS,
        *attention(head_count(config), kv_head_count(config)),
        *OUTPUT_BIAS,
        *FEED_FORWARD,
        *FEED_FORWARD_BIASES,
        *OUTPUT,
    )


LLAMA = Architecture(
    name=NAME,
    classes=("LlamaForCausalLM", "LlamaModel"),
    metadata=metadata,
    rules=rules,
    constants=llama3_factors,
    ignored=IGNORED,
)
