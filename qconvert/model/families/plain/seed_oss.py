"""Seed-OSS: a Llama with biases of queries, keys and values, and heads wider than the model."""

from qconvert.model.families.decoder.family import family_of
from qconvert.model.families.decoder.types import RENAMED, SILU_ONLY, Attention, Decoder, Only

DECODER = Decoder(
    name="seed_oss",
    model_type="seed_oss",
    classes=("SeedOssForCausalLM",),
    defaults={
        "vocab_size": 155_136,
        "hidden_size": 4096,
        "intermediate_size": 27_648,
        "num_hidden_layers": 64,
        "num_attention_heads": 80,
        "num_key_value_heads": 8,
        "head_dim": 128,
        "max_position_embeddings": 524_288,
        "rms_norm_eps": 1e-6,
        "rope_theta": 10000.0,
        "attention_bias": True,
    },
    norms=RENAMED,
    attention=Attention(output_bias=False, sized=True),
    only=(SILU_ONLY, Only("attention_out_bias", (False,)), Only("mlp_bias", (False,))),
)

SEED_OSS = family_of(DECODER)
