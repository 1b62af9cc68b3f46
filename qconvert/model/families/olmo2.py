"""OLMo 2 (arXiv 2501.00656): norms behind attention and feed-forward, and over all query and all
key heads together."""

from typing import Any

from qconvert.checkpoint.metadata import Metadata
from qconvert.checkpoint.types import Checkpoint
from qconvert.model.families import llama
from qconvert.model.families.common import SILU, decoder_metadata, expect, heads_fill_width
from qconvert.model.families.keys import Keys, decoder_config
from qconvert.model.families.parts import (
    EMBEDDING,
    FEED_FORWARD,
    IGNORED,
    LAYER,
    OUTPUT,
    QK_NORMS,
    attention,
    stated_biases,
)
from qconvert.model.families.rope import check_rope, rope_metadata
from qconvert.model.families.rope_config import rope_config
from qconvert.model.folding import DOWN
from qconvert.model.types import Config, Family, Rule

NAME = "olmo2"
DEFAULTS = {**llama.DEFAULTS, "vocab_size": 50304, "rms_norm_eps": 1e-5}


def metadata(config: Config) -> Metadata:
    return {**decoder_metadata(NAME, config), **rope_metadata(NAME, config)}


def limits(config: Config) -> None:
    heads_fill_width(config)
    expect(config, "hidden_act", SILU)
    expect(config, "attention_bias", (False,))
    check_rope(config)


def rules(config: Config) -> tuple[Rule, ...]:
    # llama.cpp does not fall back to the embedding here, so a tied output is written out.
    tied = (Rule("output.weight", "model.embed_tokens.weight"),)
    return (
        *EMBEDDING,
        *attention(),
        *stated_biases(config),
        *QK_NORMS,
        Rule("blk.{i}.post_attention_norm.weight", LAYER + "post_attention_layernorm.weight"),
        *FEED_FORWARD,
        Rule("blk.{i}.post_ffw_norm.weight", LAYER + "post_feedforward_layernorm.weight"),
        *OUTPUT,
        *(tied if config.get("tie_word_embeddings") else ()),
    )


def config_json(checkpoint: Checkpoint) -> dict[str, Any]:
    keys = Keys(checkpoint, NAME)
    return {
        **decoder_config(keys, "Olmo2ForCausalLM", "olmo2"),
        **rope_config(keys),
        "attention_bias": False,
    }


OLMO2 = Family(
    name=NAME,
    classes=("Olmo2ForCausalLM",),
    metadata=metadata,
    rules=rules,
    defaults=DEFAULTS,
    limits=limits,
    ignored=IGNORED,
    config=config_json,
    shapes={"attn_q_norm.weight": ("query",), "attn_k_norm.weight": ("key",)},
    folds=(DOWN,),
)
