"""Falcon 7B, 40B, 180B and 2 11B: attention and feed-forward side by side, layer norms, few heads
of keys and values or one. Newer models have a norm for each of the two; `attn_norm` is then that of
the feed-forward.

Files of this family go one way: they are not written back.
Sources: llama.cpp's src/models/falcon.cpp, transformers' modeling_falcon.py.
"""

from collections.abc import Mapping
from typing import Any

from qconvert.checkpoint.metadata import Metadata
from qconvert.errors import UnsupportedError
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
from qconvert.model.families.parts.lines import DRAWN, pair
from qconvert.model.families.parts.rope import check_rope, rope_metadata
from qconvert.model.types import Config, Family, Rule

NAME = "falcon"
LAYER = "transformer.h.{i}."
DEFAULTS = {
    "vocab_size": 65_024,
    "hidden_size": 4544,
    "num_hidden_layers": 32,
    "num_attention_heads": 71,
    "layer_norm_epsilon": 1e-5,
    "rope_theta": 10_000.0,
    "max_position_embeddings": 2048,
    "multi_query": True,
    "new_decoder_architecture": False,
    "tie_word_embeddings": True,
}


def _own(config: Config) -> dict[str, Any]:
    """The settings under the names that other families have for them."""
    width = whole(config, "hidden_size")
    return {
        **config,
        "intermediate_size": whole(config, "ffn_hidden_size", default=4 * width),
        "num_key_value_heads": _groups(config),
        "head_dim": None,
    }


def _groups(config: Config) -> int:
    """Heads of keys and values."""
    if config.get("multi_query") and not config.get("new_decoder_architecture"):
        return 1
    return whole(config, "num_kv_heads", default=head_count(config))


def _has_two_norms(config: Config) -> bool:
    """Whether attention and feed-forward have one each."""
    if not config.get("new_decoder_architecture"):
        return False
    return whole(config, "num_ln_in_parallel_attn", default=2) == 2


def metadata(config: Config) -> Metadata:
    own = _own(config)
    epsilon = ("layer_norm_epsilon", EPSILONS["layer"])
    return {**decoder_metadata(NAME, own, epsilon), **rope_metadata(NAME, own)}


def limits(config: Config) -> None:
    own = _own(config)
    heads_fill_width(own)
    if head_count(config) % _groups(config):
        raise UnsupportedError("config.json: num_kv_heads does not divide num_attention_heads")
    if not config.get("new_decoder_architecture"):
        expect(config, "parallel_attn", (True,))
    expect(config, "alibi", (False,))
    expect(config, "bias", (False,))
    expect(config, "activation", ("gelu", "gelu_new", "gelu_pytorch_tanh"))
    check_rope(own)


def rules(config: Config) -> tuple[Rule, ...]:
    runs = runs_of_heads(head_size(_own(config)), head_count(config), _groups(config))
    norms: Mapping[str, str] = {"attn_norm": "input_layernorm"}
    if _has_two_norms(config):
        norms = {"attn_norm": "ln_mlp", "attn_norm_2": "ln_attn"}
    fused, _ = fused_attention(LAYER + "self_attention.query_key_value", runs)
    return (
        Rule("token_embd.weight", "transformer.word_embeddings.weight"),
        *(rule for gguf, hf in norms.items() for rule in pair(f"blk.{{i}}.{gguf}", LAYER + hf)),
        fused,
        Rule("blk.{i}.attn_output.weight", LAYER + "self_attention.dense.weight"),
        Rule("blk.{i}.ffn_up.weight", LAYER + "mlp.dense_h_to_4h.weight"),
        Rule("blk.{i}.ffn_down.weight", LAYER + "mlp.dense_4h_to_h.weight"),
        *pair("output_norm", "transformer.ln_f"),
        Rule("output.weight", "lm_head.weight", optional=True),
    )


FALCON = Family(
    name=NAME,
    classes=("FalconForCausalLM",),
    metadata=metadata,
    rules=rules,
    defaults=DEFAULTS,
    aliases={"n_embed": "hidden_size"},
    limits=limits,
    unpacked=DRAWN,
    shapes={"attn_norm_2.weight": ("hidden",), "attn_norm_2.bias": ("hidden",)},
)
