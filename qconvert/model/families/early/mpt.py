"""MPT: no positions but a distance taken from scores (ALiBi, arXiv 2108.12409), layer norms without
biases, and queries, keys and values that may be cut off where they are large.

Files of this family go one way: they are not written back.
Sources: llama.cpp's src/models/mpt.cpp, transformers' modeling_mpt.py.
"""

from collections.abc import Mapping
from typing import Any

from qconvert.checkpoint.metadata import Metadata, f32
from qconvert.errors import CheckpointError
from qconvert.model.families.parts.common import (
    EPSILONS,
    decoder_metadata,
    expect,
    heads_fill_width,
    prefixed,
    real,
    whole,
)
from qconvert.model.folding import FUSED_ATTENTION, FUSED_FEED_FORWARD
from qconvert.model.types import Config, Family, Rule

NAME = "mpt"
LAYER = "transformer.blocks.{i}."
STEEPEST = 8.0
"""What the slopes of distances begin with, to transformers whatever is said."""

DEFAULTS = {
    "vocab_size": 50_368,
    "d_model": 2048,
    "n_heads": 16,
    "n_layers": 24,
    "max_seq_len": 2048,
    "layer_norm_epsilon": 1e-5,
    "tie_word_embeddings": True,
}


def _own(config: Config) -> dict[str, Any]:
    """The settings under the names that other families have for them."""
    width = whole(config, "d_model")
    return {
        **config,
        "hidden_size": width,
        "intermediate_size": 4 * width,
        "num_hidden_layers": config.get("n_layers"),
        "num_attention_heads": config.get("n_heads"),
        "max_position_embeddings": config.get("max_seq_len"),
        "num_key_value_heads": None,
        "head_dim": None,
    }


def _attention(config: Config) -> Mapping[str, Any]:
    given = config.get("attn_config", {})
    if not isinstance(given, Mapping):
        raise CheckpointError("config.json: attn_config is no object")
    return given


def metadata(config: Config) -> Metadata:
    keys = {"attention.max_alibi_bias": f32(STEEPEST)}
    if _attention(config).get("clip_qkv"):
        keys["attention.clamp_kqv"] = f32(real(_attention(config), "clip_qkv"))
    epsilon = ("layer_norm_epsilon", EPSILONS["layer"])
    return {**decoder_metadata(NAME, _own(config), epsilon), **prefixed(NAME, keys)}


def limits(config: Config) -> None:
    inner = _attention(config)
    heads_fill_width(_own(config))
    expect(inner, "alibi", (True,))
    expect(inner, "alibi_bias_max", (STEEPEST,))
    expect(inner, "attn_type", ("multihead_attention",))
    for name in ("qk_ln", "prefix_lm"):
        expect(inner, name, (False,))
    for name in ("softmax_scale", "kv_n_heads"):
        expect(inner, name, (), "transformers or llama.cpp does not heed it")
    expect(config, "logit_scale", (), "transformers does not heed it")
    expect(config, "expansion_ratio", (4,))


def rules(config: Config) -> tuple[Rule, ...]:
    return (
        Rule("token_embd.weight", "transformer.wte.weight"),
        Rule("blk.{i}.attn_norm.weight", LAYER + "norm_1.weight"),
        Rule("blk.{i}.attn_qkv.weight", LAYER + "attn.Wqkv.weight"),
        Rule("blk.{i}.attn_output.weight", LAYER + "attn.out_proj.weight"),
        Rule("blk.{i}.ffn_norm.weight", LAYER + "norm_2.weight"),
        Rule("blk.{i}.ffn_up.weight", LAYER + "ffn.up_proj.weight"),
        Rule("blk.{i}.ffn_down.weight", LAYER + "ffn.down_proj.weight"),
        Rule("output_norm.weight", "transformer.norm_f.weight"),
        Rule("output.weight", "lm_head.weight", optional=True),
    )


MPT = Family(
    name=NAME,
    classes=("MptForCausalLM", "MPTForCausalLM"),
    metadata=metadata,
    rules=rules,
    defaults=DEFAULTS,
    aliases={
        "hidden_size": "d_model",
        "num_attention_heads": "n_heads",
        "num_hidden_layers": "n_layers",
    },
    limits=limits,
    folds=(FUSED_ATTENTION, FUSED_FEED_FORWARD),
)
