"""Nemotron and Minitron: layer norms stored as weight - 1, a feed-forward without a gate that
squares what is above zero, and heads of which a half turns."""

from dataclasses import replace

from qconvert.model.families.decoder.family import family_of
from qconvert.model.families.decoder.types import (
    PRE,
    UNGATED,
    Attention,
    Decoder,
    Only,
    Rope,
)
from qconvert.model.families.parts.rope import PLAIN

DECODER = Decoder(
    name="nemotron",
    model_type="nemotron",
    classes=("NemotronForCausalLM",),
    defaults={
        "vocab_size": 256_000,
        "hidden_size": 6144,
        "intermediate_size": 24_576,
        "num_hidden_layers": 32,
        "num_attention_heads": 48,
        "max_position_embeddings": 4096,
        "norm_eps": 1e-5,
        "rope_theta": 10000.0,
        "partial_rotary_factor": 0.5,
    },
    norms=replace(PRE, kind="layer", bias=True, shift=1.0, epsilon="norm_eps"),
    attention=Attention(square=True),
    rope=Rope((*PLAIN, "linear"), partly=True, counted=True),
    feed_forward=replace(UNGATED, bias="mlp_bias"),
    only=(Only("hidden_act", ("relu2",)),),
    tied_output=True,
)

NEMOTRON = family_of(DECODER)
