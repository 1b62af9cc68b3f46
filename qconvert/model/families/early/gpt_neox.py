"""GPT-NeoX (arXiv 2204.06745) and Pythia: attention and feed-forward side by side, layer norms and
biases everywhere, and heads of which a quarter turns. Each head's query, key and value lie together
in one matrix; llama.cpp wants all queries first, then all keys, then all values.

Files of this family go one way: they are not written back.
"""

from typing import Any

from qconvert.checkpoint.metadata import Metadata, flag, u32
from qconvert.model.families.decoder.metadata import turned
from qconvert.model.families.parts.common import (
    EPSILONS,
    decoder_metadata,
    expect,
    head_count,
    head_size,
    heads_fill_width,
    prefixed,
)
from qconvert.model.families.parts.fused import fused_attention, runs_of_heads
from qconvert.model.families.parts.lines import pair
from qconvert.model.families.parts.rope import check_rope, rope_metadata
from qconvert.model.folding import FUSED_ATTENTION, FUSED_FEED_FORWARD
from qconvert.model.types import Config, Family, Rule

EMBEDDING = "gpt_neox.embed_in.weight"
NAME = "gptneox"
LAYER = "gpt_neox.layers.{i}."
DEFAULTS = {
    "vocab_size": 50_432,
    "hidden_size": 6144,
    "intermediate_size": 24_576,
    "num_hidden_layers": 44,
    "num_attention_heads": 64,
    "max_position_embeddings": 2048,
    "layer_norm_eps": 1e-5,
    "rotary_emb_base": 10000.0,
    "rotary_pct": 0.25,
    "use_parallel_residual": True,
}


def _heeded(config: Config) -> dict[str, Any]:
    """The settings with what transformers heeds of positions: names of the family's own, beside
    `rope_parameters`."""
    return {
        **config,
        "rope_theta": config.get("rotary_emb_base"),
        "partial_rotary_factor": config.get("rotary_pct"),
    }


def metadata(config: Config) -> Metadata:
    config = _heeded(config)
    keys = {
        "rope.dimension_count": u32(turned(config)),
        "use_parallel_residual": flag(bool(config.get("use_parallel_residual"))),
    }
    return {
        **decoder_metadata(NAME, config, ("layer_norm_eps", EPSILONS["layer"])),
        **rope_metadata(NAME, config),
        **prefixed(NAME, keys),
    }


def limits(config: Config) -> None:
    heads_fill_width(config)
    expect(config, "hidden_act", ("gelu", "gelu_new", "gelu_fast", "gelu_pytorch_tanh"))
    expect(config, "attention_bias", (True,))
    check_rope(_heeded(config), partly=True)


def rules(config: Config) -> tuple[Rule, ...]:
    heads = head_count(config)
    runs = runs_of_heads(head_size(config), heads, heads)
    return (
        Rule("token_embd.weight", EMBEDDING),
        *pair("blk.{i}.attn_norm", LAYER + "input_layernorm"),
        *fused_attention(LAYER + "attention.query_key_value", runs),
        *pair("blk.{i}.attn_output", LAYER + "attention.dense"),
        *pair("blk.{i}.ffn_norm", LAYER + "post_attention_layernorm"),
        *pair("blk.{i}.ffn_up", LAYER + "mlp.dense_h_to_4h"),
        *pair("blk.{i}.ffn_down", LAYER + "mlp.dense_4h_to_h"),
        *pair("output_norm", "gpt_neox.final_layer_norm"),
        Rule("output.weight", "lm_head.weight"),
        Rule("output.weight", "embed_out.weight"),
        # llama.cpp wants a tied one written out.
        *([Rule("output.weight", EMBEDDING)] if config.get("tie_word_embeddings") else []),
    )


GPT_NEOX = Family(
    name=NAME,
    classes=("GPTNeoXForCausalLM",),
    metadata=metadata,
    rules=rules,
    defaults=DEFAULTS,
    limits=limits,
    # Causal masks and tables that old versions stored.
    ignored=(
        r"(gpt_neox\.)?layers\.\d+\.attention\.(masked_)?bias",
        r"(gpt_neox\.)?layers\.\d+\.attention\.rotary_emb\.inv_freq",
    ),
    folds=(FUSED_ATTENTION, FUSED_FEED_FORWARD),
)
