"""Llama (1 to 3.3) and what is built like it. Rotary pairs are neighbours in llama.cpp."""

from typing import Any

from qconvert.checkpoint.metadata import Metadata, u32
from qconvert.checkpoint.types import Checkpoint
from qconvert.model.families.common import (
    SILU,
    decoder_metadata,
    expect,
    head_count,
    head_size,
    kv_head_count,
    prefixed,
)
from qconvert.model.families.keys import Keys, bias_flag, decoder_config
from qconvert.model.families.parts import (
    EMBEDDING,
    FEED_FORWARD,
    FEED_FORWARD_BIASES,
    IGNORED,
    NORMS,
    OUTPUT,
    attention,
    stated_biases,
)
from qconvert.model.families.rope import ROPE_TYPES, check_rope, llama3_factors, rope_metadata
from qconvert.model.families.rope_config import rope_config
from qconvert.model.folding import DENSE
from qconvert.model.types import Config, Family, Rule

NAME = "llama"
DEFAULTS = {
    "vocab_size": 32000,
    "hidden_size": 4096,
    "intermediate_size": 11008,
    "num_hidden_layers": 32,
    "num_attention_heads": 32,
    "max_position_embeddings": 2048,
    "rms_norm_eps": 1e-06,
    "rope_theta": 10000.0,
}


def metadata(config: Config) -> Metadata:
    return {
        **decoder_metadata(NAME, config),
        **rope_metadata(NAME, config),
        **prefixed(NAME, {"rope.dimension_count": u32(head_size(config))}),
    }


def limits(config: Config) -> None:
    expect(config, "hidden_act", SILU)
    check_rope(config, (*ROPE_TYPES, "llama3"))


def rules(config: Config) -> tuple[Rule, ...]:
    heads, kv_heads = head_count(config), kv_head_count(config)
    return (
        *EMBEDDING,
        *NORMS,
        *attention(heads, kv_heads),
        *stated_biases(config, heads, kv_heads),
        *FEED_FORWARD,
        *(FEED_FORWARD_BIASES if config.get("mlp_bias") else ()),
        *OUTPUT,
    )


ATTENTION_BIASES = tuple(f"blk.{{i}}.attn_{part}.bias" for part in ("q", "k", "v", "output"))
FEED_FORWARD_BIAS_NAMES = tuple(f"blk.{{i}}.ffn_{part}.bias" for part in ("gate", "up", "down"))


def config_json(checkpoint: Checkpoint) -> dict[str, Any]:
    """A Mistral comes back as the Llama that it is to llama.cpp, since their sums are the same."""
    keys = Keys(checkpoint, NAME)
    config = {**decoder_config(keys, "LlamaForCausalLM", "llama"), **rope_config(keys)}
    biases = {
        "attention_bias": bias_flag(keys, ATTENTION_BIASES),
        "mlp_bias": bias_flag(keys, FEED_FORWARD_BIAS_NAMES),
    }
    return with_any_width({**config, **biases})


def with_any_width(config: dict[str, Any]) -> dict[str, Any]:
    """A Llama's config.json; where its heads do not divide its width, which transformers' Llama
    wants, it is called a Mistral, if it has no biases."""
    biases = {key: config.get(key) for key in ("attention_bias", "mlp_bias")}
    if config["hidden_size"] % config["num_attention_heads"] == 0 or any(biases.values()):
        return config
    plain = {key: value for key, value in config.items() if key not in biases}
    mistral = {"architectures": ["MistralForCausalLM"], "model_type": "mistral"}
    return {**plain, **mistral, "sliding_window": None}


LLAMA = Family(
    name=NAME,
    classes=("LlamaForCausalLM", "LlamaModel"),
    metadata=metadata,
    rules=rules,
    defaults=DEFAULTS,
    limits=limits,
    constants=llama3_factors,
    ignored=IGNORED,
    config=config_json,
    folds=DENSE,
    pooled=True,
)
