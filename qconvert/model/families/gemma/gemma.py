"""Gemma (the first): a Llama with norms stored as weight - 1 and embeddings that are scaled."""

from dataclasses import replace

from qconvert.model.families.decoder.family import family_of
from qconvert.model.families.decoder.types import PRE, Attention, Decoder, Only

DECODER = Decoder(
    name="gemma",
    model_type="gemma",
    classes=("GemmaForCausalLM",),
    defaults={
        "vocab_size": 256_000,
        "hidden_size": 3072,
        "intermediate_size": 24_576,
        "num_hidden_layers": 28,
        "num_attention_heads": 16,
        "num_key_value_heads": 16,
        "head_dim": 256,
        "max_position_embeddings": 8192,
        "rms_norm_eps": 1e-6,
        "rope_theta": 10000.0,
        "tie_word_embeddings": True,
    },
    norms=replace(PRE, shift=1.0),
    attention=Attention(sized=True),
    only=(
        # The older name is taken for the approximation by transformers too.
        Only("hidden_act", ("gelu_pytorch_tanh", "gelu")),
        Only("attention_bias", (False,)),
        Only("tie_word_embeddings", (True,)),
        Only("use_bidirectional_attention", (False,)),
    ),
    output_is_embedding=True,
)

GEMMA = family_of(DECODER)
