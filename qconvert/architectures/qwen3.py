"""Qwen3 (dense): Qwen2 with a norm over each query and key head."""

from qconvert.architectures.common import decoder_metadata, text_config
from qconvert.architectures.parts import (
    EMBEDDING,
    FEED_FORWARD,
    IGNORED,
    NORMS,
    OUTPUT,
    QK_NORMS,
    attention,
)
from qconvert.architectures.rope import rope_metadata, whole_heads_turn
from qconvert.architectures.types import Architecture, Config, Rule
from qconvert.metadata import Metadata

NAME = "qwen3"
DEFAULTS = {"head_dim": 128}


def metadata(config: Config) -> Metadata:
    whole_heads_turn(config)
    settings = text_config(config, DEFAULTS)
    return {**decoder_metadata(NAME, settings), **rope_metadata(NAME, settings)}


def rules(config: Config) -> tuple[Rule, ...]:
    return (*EMBEDDING, *NORMS, *attention(), *QK_NORMS, *FEED_FORWARD, *OUTPUT)


QWEN3 = Architecture(
    name=NAME,
    classes=("Qwen3ForCausalLM", "Qwen3Model"),
    metadata=metadata,
    rules=rules,
    ignored=IGNORED,
)
