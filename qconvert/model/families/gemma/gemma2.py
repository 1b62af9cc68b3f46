"""Gemma 2: soft caps of attention's scores and of logits, and a window in every second layer."""

from dataclasses import replace
from typing import Any

from qconvert.checkpoint.types import Checkpoint
from qconvert.errors import UnsupportedError
from qconvert.model.families.decoder.family import family_of
from qconvert.model.families.decoder.metadata import decoder_limits
from qconvert.model.families.decoder.types import (
    SANDWICH,
    Attention,
    Decoder,
    Only,
    Scalar,
    Windows,
)
from qconvert.model.families.gemma import gemma3
from qconvert.model.families.parts.common import block_count, expect
from qconvert.model.types import Config

SCALED_BY_WIDTH = 46
"""Layers of the 27B model, whose queries llama.cpp scales by hidden size / heads."""

CAPS = ("attn_logit_softcapping", "final_logit_softcapping")

DECODER = Decoder(
    name="gemma2",
    model_type="gemma2",
    classes=("Gemma2ForCausalLM",),
    defaults={
        "vocab_size": 256_000,
        "hidden_size": 2304,
        "intermediate_size": 9216,
        "num_hidden_layers": 26,
        "num_attention_heads": 8,
        "num_key_value_heads": 4,
        "head_dim": 256,
        "max_position_embeddings": 8192,
        "rms_norm_eps": 1e-6,
        "rope_theta": 10000.0,
        "query_pre_attn_scalar": 256,
        "sliding_window": 4096,
        "attn_logit_softcapping": 50.0,
        "final_logit_softcapping": 30.0,
        "tie_word_embeddings": True,
    },
    norms=replace(SANDWICH, shift=1.0),
    attention=Attention(sized=True),
    scalars=tuple(Scalar(name, name) for name in CAPS),
    windows=Windows(2, 2, always=True),
    output_is_embedding=True,
    only=(
        Only("hidden_activation", gemma3.ACTIVATIONS),
        Only("attention_bias", (False,)),
        Only("tie_word_embeddings", (True,)),
    ),
)


def limits(config: Config) -> None:
    decoder_limits(DECODER, config)
    expect(config, "use_bidirectional_attention", (False,))
    for name in CAPS:
        if config.get(name) is None:
            raise UnsupportedError(f"config.json: llama.cpp runs Gemma 2 only with {name}")
    gemma3.check_query_scale(config, block_count(config) == SCALED_BY_WIDTH)


def config_json(checkpoint: Checkpoint) -> dict[str, Any]:
    return gemma3.gemma_settings(DECODER, checkpoint, SCALED_BY_WIDTH)


GEMMA2 = replace(family_of(DECODER), limits=limits, config=config_json)
