"""Qwen3 (dense): Qwen2 with a norm over each query and key head."""

from typing import Any

from qconvert.checkpoint.metadata import Metadata
from qconvert.checkpoint.types import Checkpoint
from qconvert.model.families import qwen2
from qconvert.model.families.common import SILU, decoder_metadata, expect
from qconvert.model.families.keys import Keys, decoder_config
from qconvert.model.families.parts import (
    EMBEDDING,
    FEED_FORWARD,
    IGNORED,
    NORMS,
    OUTPUT,
    QK_NORMS,
    attention,
    stated_biases,
)
from qconvert.model.families.rope import check_rope, rope_metadata
from qconvert.model.families.rope_config import rope_config
from qconvert.model.folding import DENSE
from qconvert.model.types import Config, Family, Rule

NAME = "qwen3"
DEFAULTS = {**qwen2.DEFAULTS, "head_dim": 128}


def metadata(config: Config) -> Metadata:
    return {**decoder_metadata(NAME, config), **rope_metadata(NAME, config)}


def limits(config: Config) -> None:
    expect(config, "hidden_act", SILU)
    expect(config, "attention_bias", (False,))
    check_rope(config)


def rules(config: Config) -> tuple[Rule, ...]:
    return (
        *EMBEDDING,
        *NORMS,
        *attention(),
        *stated_biases(config),
        *QK_NORMS,
        *FEED_FORWARD,
        *OUTPUT,
    )


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
    defaults=DEFAULTS,
    limits=limits,
    ignored=IGNORED,
    config=config_json,
    folds=DENSE,
    pooled=True,
    window_by_choice=True,
)
