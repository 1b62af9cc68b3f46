"""StableLM: a Llama with layer norms and heads of which a quarter turns. The 12B of StableLM 2 has
attention and feed-forward side by side, and norms of each head's queries and keys, each a tensor of
its own; files of it go one way."""

from dataclasses import replace
from typing import Any

from qconvert.checkpoint.types import Checkpoint
from qconvert.errors import UnsupportedError
from qconvert.model.families.decoder.family import family_of
from qconvert.model.families.decoder.rules import decoder_rules
from qconvert.model.families.decoder.settings import decoder_settings
from qconvert.model.families.decoder.types import (
    PARALLEL,
    PRE,
    SILU_ONLY,
    Attention,
    Decoder,
    Rope,
)
from qconvert.model.families.parts.common import head_count, kv_head_count
from qconvert.model.families.parts.lines import LAYER
from qconvert.model.types import Config, Family, Rule

DECODER = Decoder(
    name="stablelm",
    model_type="stablelm",
    classes=("StableLmForCausalLM",),
    defaults={
        "vocab_size": 50_304,
        "hidden_size": 2560,
        "intermediate_size": 6912,
        "num_hidden_layers": 32,
        "num_attention_heads": 32,
        "num_key_value_heads": 32,
        "max_position_embeddings": 4096,
        "layer_norm_eps": 1e-5,
        "rope_theta": 10000.0,
        "partial_rotary_factor": 0.25,
    },
    norms=replace(PRE, kind="layer", bias=True, epsilon="layer_norm_eps"),
    attention=Attention(bias="use_qkv_bias", output_bias=False, square=True),
    rope=Rope(partly=True, counted=True),
    only=(SILU_ONLY,),
    tied_output=True,
)


def config_json(checkpoint: Checkpoint) -> dict[str, Any]:
    """
    Raises:
        UnsupportedError: it is a file of the 12B.
    """
    if "blk.0.ffn_norm.weight" not in checkpoint.tensors:
        raise UnsupportedError(
            "a StableLM with attention and feed-forward side by side cannot be written as a "
            "Hugging Face checkpoint"
        )
    return decoder_settings(DECODER, checkpoint)


STABLELM = replace(family_of(DECODER), config=config_json)

PARTS = {"attn_q_norm": "q_layernorm", "attn_k_norm": "k_layernorm"}
"""Norms of heads: GGUF's name and Hugging Face's."""


def stablelm_of(config: Config) -> Family:
    """The family, by what its blocks have."""
    parallel, normed = (
        config.get(name) is True for name in ("use_parallel_residual", "qk_layernorm")
    )
    if not parallel and not normed:
        return STABLELM
    norms = replace(DECODER.norms, before=PARALLEL.before, of_feed_forward="attn_norm")
    decoder = replace(DECODER, norms=norms if parallel else DECODER.norms)
    if normed:
        decoder = replace(decoder, attention=replace(DECODER.attention, qk_norms="each"))

    def rules(config: Config) -> tuple[Rule, ...]:
        heads = {"attn_q_norm": head_count(config), "attn_k_norm": kv_head_count(config)}
        return tuple(
            replace(rule, hf=f"{LAYER}self_attn.{PARTS[part]}.norms.{{e}}.weight", copies=count)
            if (count := heads.get(part := rule.gguf.split(".")[-2], 0))
            else rule
            for rule in decoder_rules(decoder, config)
        )

    return replace(family_of(decoder), rules=rules, config=None)
