"""Llama (1 to 3.3) and what is built like it. Rotary pairs are neighbours in llama.cpp."""

from dataclasses import replace
from typing import Any

from qconvert.checkpoint.types import Checkpoint
from qconvert.model.families.decoder.family import family_of
from qconvert.model.families.decoder.settings import decoder_settings
from qconvert.model.families.decoder.types import Attention, Decoder, FeedForward, Rope
from qconvert.model.families.parts.rope import ROPE_TYPES

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

DECODER = Decoder(
    name="llama",
    model_type="llama",
    classes=("LlamaForCausalLM", "LlamaModel"),
    defaults=DEFAULTS,
    attention=Attention(regrouped=True),
    rope=Rope((*ROPE_TYPES, "llama3"), counted=True),
    feed_forward=FeedForward(bias="mlp_bias"),
    pooled=True,
)


def config_json(checkpoint: Checkpoint) -> dict[str, Any]:
    """A Mistral comes back as the Llama that it is to llama.cpp, since their sums are the same."""
    return with_any_width(decoder_settings(DECODER, checkpoint))


def with_any_width(config: dict[str, Any]) -> dict[str, Any]:
    """A Llama's config.json; where its heads do not divide its width, which transformers' Llama
    wants, it is called a Mistral, if it has no biases."""
    biases = {name: config.get(name) for name in ("attention_bias", "mlp_bias")}
    if config["hidden_size"] % config["num_attention_heads"] == 0 or any(biases.values()):
        return config
    mistral = {"architectures": ["MistralForCausalLM"], "model_type": "mistral"}
    rest = {name: value for name, value in config.items() if name not in biases}
    return {**rest, **mistral, "sliding_window": None}


LLAMA = replace(family_of(DECODER), config=config_json)
