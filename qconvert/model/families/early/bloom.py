"""BLOOM (arXiv 2211.05100): no positions but a distance taken from scores (ALiBi), layer norms,
one of them behind the embedding, and biases everywhere.

Files of this family go one way: they are not written back.
Sources: llama.cpp's src/models/bloom.cpp, transformers' modeling_bloom.py.
"""

from typing import Any

from qconvert.checkpoint.metadata import Metadata
from qconvert.model.families.parts.common import (
    EPSILONS,
    decoder_metadata,
    expect,
    head_count,
    head_size,
    heads_fill_width,
    whole,
)
from qconvert.model.families.parts.fused import fused_attention, runs_of_heads
from qconvert.model.families.parts.lines import pair
from qconvert.model.folding import FUSED_ATTENTION, FUSED_FEED_FORWARD
from qconvert.model.types import Config, Family, Rule

NAME = "bloom"
LAYER = "transformer.h.{i}."
USUAL = 2048
"""Tokens that these models were trained on; there is nothing in them that has so many."""

DEFAULTS = {
    "vocab_size": 250_880,
    "hidden_size": 64,
    "n_layer": 2,
    "n_head": 8,
    "layer_norm_epsilon": 1e-5,
    "tie_word_embeddings": True,
}


def _own(config: Config) -> dict[str, Any]:
    """The settings under the names that other families have for them."""
    return {
        **config,
        "num_hidden_layers": config.get("n_layer"),
        "num_attention_heads": config.get("n_head"),
        "intermediate_size": 4 * whole(config, "hidden_size"),
        "max_position_embeddings": whole(config, "seq_length", default=USUAL),
        "num_key_value_heads": None,
        "head_dim": None,
    }


def metadata(config: Config) -> Metadata:
    return decoder_metadata(NAME, _own(config), ("layer_norm_epsilon", EPSILONS["layer"]))


def limits(config: Config) -> None:
    heads_fill_width(_own(config))
    expect(config, "apply_residual_connection_post_layernorm", (False,))


def rules(config: Config) -> tuple[Rule, ...]:
    own = _own(config)
    heads = head_count(own)
    runs = runs_of_heads(head_size(own), heads, heads)
    return (
        Rule("token_embd.weight", "transformer.word_embeddings.weight"),
        *pair("token_embd_norm", "transformer.word_embeddings_layernorm"),
        *pair("blk.{i}.attn_norm", LAYER + "input_layernorm"),
        *fused_attention(LAYER + "self_attention.query_key_value", runs),
        *pair("blk.{i}.attn_output", LAYER + "self_attention.dense"),
        *pair("blk.{i}.ffn_norm", LAYER + "post_attention_layernorm"),
        *pair("blk.{i}.ffn_up", LAYER + "mlp.dense_h_to_4h"),
        *pair("blk.{i}.ffn_down", LAYER + "mlp.dense_4h_to_h"),
        *pair("output_norm", "transformer.ln_f"),
        Rule("output.weight", "lm_head.weight", optional=True),
    )


BLOOM = Family(
    name=NAME,
    classes=("BloomForCausalLM", "BloomModel"),
    metadata=metadata,
    rules=rules,
    defaults=DEFAULTS,
    aliases={
        "num_hidden_layers": "n_layer",
        "num_attention_heads": "n_head",
        "n_embed": "hidden_size",
    },
    limits=limits,
    folds=(FUSED_ATTENTION, FUSED_FEED_FORWARD),
)
