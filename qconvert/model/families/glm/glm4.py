"""GLM-4 (0414): norms before and behind attention and feed-forward, gate and up in one matrix, and
heads of which a half turns, in neighbours on both sides."""

from dataclasses import replace

from qconvert.model.families.decoder.family import family_of
from qconvert.model.families.decoder.types import FUSED, SANDWICH, Attention, Decoder, Rope

DECODER = Decoder(
    name="glm4",
    model_type="glm4",
    classes=("Glm4ForCausalLM",),
    defaults={
        "vocab_size": 151_552,
        "hidden_size": 4096,
        "intermediate_size": 13_696,
        "num_hidden_layers": 40,
        "num_attention_heads": 32,
        "num_key_value_heads": 2,
        "head_dim": 128,
        "max_position_embeddings": 131_072,
        "rms_norm_eps": 1.5625e-7,
        "rope_theta": 10000.0,
        "partial_rotary_factor": 0.5,
        "attention_bias": True,
    },
    norms=replace(
        SANDWICH,
        behind_attention=(
            ("post_attention_norm", "post_self_attn_layernorm"),
            ("ffn_norm", "post_attention_layernorm"),
        ),
        behind_feed_forward=(("post_ffw_norm", "post_mlp_layernorm"),),
    ),
    attention=Attention(output_bias=False, sized=True),
    rope=Rope(partly=True, counted=True),
    feed_forward=FUSED,
)

GLM4 = family_of(DECODER)
