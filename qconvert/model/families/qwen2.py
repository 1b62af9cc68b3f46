"""Qwen2 and Qwen2.5 (dense)."""

from typing import Any

from qconvert.checkpoint.metadata import Metadata
from qconvert.checkpoint.types import Checkpoint
from qconvert.model.families.common import decoder_metadata, heads_fill_width
from qconvert.model.families.keys import Keys, decoder_config
from qconvert.model.families.parts import (
    EMBEDDING,
    FEED_FORWARD,
    IGNORED,
    NORMS,
    OUTPUT,
    attention,
    attention_biases,
)
from qconvert.model.families.rope import rope_metadata, whole_heads_turn
from qconvert.model.families.rope_config import rope_config
from qconvert.model.folding import DENSE
from qconvert.model.types import Config, Family, Rule

NAME = "qwen2"


def metadata(config: Config) -> Metadata:
    heads_fill_width(config)
    whole_heads_turn(config)
    return {**decoder_metadata(NAME, config), **rope_metadata(NAME, config)}


def rules(config: Config) -> tuple[Rule, ...]:
    return (*EMBEDDING, *NORMS, *attention(), *attention_biases(), *FEED_FORWARD, *OUTPUT)


def config_json(checkpoint: Checkpoint) -> dict[str, Any]:
    keys = Keys(checkpoint, NAME)
    return {
        **decoder_config(keys, "Qwen2ForCausalLM", "qwen2"),
        **rope_config(keys),
        "use_sliding_window": False,
    }


QWEN2 = Family(
    name=NAME,
    classes=("Qwen2ForCausalLM", "Qwen2Model"),
    metadata=metadata,
    rules=rules,
    ignored=IGNORED,
    config=config_json,
    folds=DENSE,
    pooled=True,
    window_by_choice=True,
)
