"""ERNIE 4.5 (dense): a Llama whose rotary pairs are neighbours on both sides."""

from qconvert.model.families.decoder.family import family_of
from qconvert.model.families.decoder.types import SILU_ONLY, Attention, Decoder, Only

DECODER = Decoder(
    name="ernie4_5",
    model_type="ernie4_5",
    classes=("Ernie4_5ForCausalLM", "Ernie4_5_ForCausalLM"),
    defaults={
        "vocab_size": 103_424,
        "hidden_size": 1024,
        "intermediate_size": 3072,
        "num_hidden_layers": 18,
        "num_attention_heads": 16,
        "num_key_value_heads": 2,
        "head_dim": 128,
        "max_position_embeddings": 131_072,
        "rms_norm_eps": 1e-5,
        "rope_theta": 500_000.0,
        "tie_word_embeddings": True,
    },
    attention=Attention(bias=False, output_bias=False, sized=True),
    only=(SILU_ONLY, Only("use_bias", (False,))),
)

ERNIE4_5 = family_of(DECODER)
