"""Qwen2 and Qwen2.5 (dense)."""

from typing import Any

from qconvert.checkpoint.metadata import Metadata
from qconvert.checkpoint.types import Checkpoint
from qconvert.model.families.common import SILU, decoder_metadata, expect, heads_fill_width
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
from qconvert.model.families.rope import check_rope, rope_metadata
from qconvert.model.families.rope_config import rope_config
from qconvert.model.folding import DENSE
from qconvert.model.types import Config, Family, Rule

NAME = "qwen2"
DEFAULTS = {
    "vocab_size": 151936,
    "hidden_size": 4096,
    "intermediate_size": 22016,
    "num_hidden_layers": 32,
    "num_attention_heads": 32,
    "num_key_value_heads": 32,
    "max_position_embeddings": 32768,
    "rms_norm_eps": 1e-06,
    "rope_theta": 10000.0,
}


def metadata(config: Config) -> Metadata:
    return {**decoder_metadata(NAME, config), **rope_metadata(NAME, config)}


def limits(config: Config) -> None:
    heads_fill_width(config)
    expect(config, "hidden_act", SILU)
    check_rope(config)


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
    defaults=DEFAULTS,
    limits=limits,
    ignored=IGNORED,
    config=config_json,
    folds=DENSE,
    pooled=True,
    window_by_choice=True,
)
