"""Qwen3 (dense): Qwen2 with a norm over each query and key head."""

from typing import Any

from qconvert.checkpoint.metadata import Metadata
from qconvert.checkpoint.types import Checkpoint
from qconvert.model.families.common import decoder_metadata, expect, text_config
from qconvert.model.families.keys import Keys, decoder_config
from qconvert.model.families.parts import (
    EMBEDDING,
    FEED_FORWARD,
    IGNORED,
    NORMS,
    OUTPUT,
    QK_NORMS,
    attention,
)
from qconvert.model.families.rope import rope_metadata, whole_heads_turn
from qconvert.model.families.rope_config import rope_config
from qconvert.model.folding import DENSE
from qconvert.model.types import Config, Family, Rule

NAME = "qwen3"
DEFAULTS = {"head_dim": 128}


def metadata(config: Config) -> Metadata:
    whole_heads_turn(config)
    expect(config, "attention_bias", (False,))
    settings = text_config(config, DEFAULTS)
    return {**decoder_metadata(NAME, settings), **rope_metadata(NAME, settings)}


def rules(config: Config) -> tuple[Rule, ...]:
    return (*EMBEDDING, *NORMS, *attention(), *QK_NORMS, *FEED_FORWARD, *OUTPUT)


def config_json(checkpoint: Checkpoint) -> dict[str, Any]:
    keys = Keys(checkpoint, NAME)
    return {
        **decoder_config(keys, "Qwen3ForCausalLM", "qwen3"),
        **rope_config(keys),
        "head_dim": keys.head_size,
        "attention_bias": False,
        "use_sliding_window": False,
    }


QWEN3 = Family(
    name=NAME,
    classes=("Qwen3ForCausalLM", "Qwen3Model"),
    metadata=metadata,
    rules=rules,
    ignored=IGNORED,
    config=config_json,
    folds=DENSE,
    pooled=True,
    window_by_choice=True,
)
