"""Qwen2 and Qwen2.5 (dense)."""

from qconvert.architectures.common import decoder_metadata
from qconvert.architectures.parts import (
    EMBEDDING,
    FEED_FORWARD,
    IGNORED,
    NORMS,
    OUTPUT,
    attention,
)
from qconvert.architectures.rope import rope_metadata, whole_heads_turn
from qconvert.architectures.types import Architecture, Config, Rule
from qconvert.metadata import Metadata

NAME = "qwen2"


def metadata(config: Config) -> Metadata:
    whole_heads_turn(config)
    return {**decoder_metadata(NAME, config), **rope_metadata(NAME, config)}


def rules(config: Config) -> tuple[Rule, ...]:
    return (*EMBEDDING, *NORMS, *attention(), *FEED_FORWARD, *OUTPUT)


QWEN2 = Architecture(
    name=NAME,
    classes=("Qwen2ForCausalLM", "Qwen2Model"),
    metadata=metadata,
    rules=rules,
    ignored=IGNORED,
)
