"""Command R and Command R7B: attention and feed-forward side by side behind one norm, scaled
logits, an output that is always the embedding.

Cohere 2 has windows in three of four layers, and the fourth does not turn. Rotary pairs are
neighbours on both sides.
"""

from dataclasses import replace

from qconvert.checkpoint.metadata import Metadata, text
from qconvert.errors import UnsupportedError
from qconvert.model.families.decoder.family import family_of
from qconvert.model.families.decoder.metadata import decoder_keys, decoder_limits
from qconvert.model.families.decoder.types import (
    PARALLEL,
    SILU_ONLY,
    Attention,
    Decoder,
    Only,
    Rope,
    Scalar,
    Windows,
)
from qconvert.model.families.parts.common import block_count
from qconvert.model.families.parts.rope import PLAIN
from qconvert.model.types import Config

LARGE = 64
"""Layers from which on llama.cpp wants norms of queries and keys."""

DECODER = Decoder(
    name="command-r",
    model_type="cohere",
    classes=("CohereForCausalLM",),
    defaults={
        "vocab_size": 256_000,
        "hidden_size": 8192,
        "intermediate_size": 22_528,
        "num_hidden_layers": 40,
        "num_attention_heads": 64,
        "max_position_embeddings": 8192,
        "layer_norm_eps": 1e-5,
        "logit_scale": 0.0625,
        "rope_theta": 500_000.0,
        "tie_word_embeddings": True,
    },
    norms=replace(PARALLEL, kind="layer", epsilon="layer_norm_eps"),
    attention=Attention(qk_norms="each", qk_normed="use_qk_norm", square=True),
    rope=Rope(PLAIN),
    scalars=(Scalar("logit_scale", "logit_scale"),),
    output_is_embedding=True,
    only=(SILU_ONLY, Only("attention_bias", (False,)), Only("tie_word_embeddings", (True,))),
)

DECODER2 = replace(
    DECODER,
    name="cohere2",
    model_type="cohere2",
    classes=("Cohere2ForCausalLM",),
    defaults={**DECODER.defaults, "rope_theta": 10000.0, "sliding_window": 4096},
    attention=Attention(square=True),
    windows=Windows(4, 4, always=True, older=("sliding_window_pattern",)),
)


def _metadata(decoder: Decoder, config: Config) -> Metadata:
    """llama.cpp's converter says that nothing is stretched."""
    return {
        **decoder_keys(decoder, config),
        f"{decoder.name}.rope.scaling.type": text("none"),
    }


def metadata(config: Config) -> Metadata:
    return _metadata(DECODER, config)


def metadata2(config: Config) -> Metadata:
    return _metadata(DECODER2, config)


def limits(config: Config) -> None:
    decoder_limits(DECODER, config)
    if bool(config.get("use_qk_norm")) != (block_count(config) >= LARGE):
        raise UnsupportedError(
            f"config.json: llama.cpp runs this family with use_qk_norm from {LARGE} layers on, and "
            "without it below"
        )


COHERE = replace(family_of(DECODER), metadata=metadata, limits=limits)
COHERE2 = replace(family_of(DECODER2), metadata=metadata2)
