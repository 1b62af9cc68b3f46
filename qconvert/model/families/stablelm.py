"""StableLM (3B, and 1.6B of StableLM 2): a Llama with layer norms and heads of which a quarter
turns."""

from dataclasses import replace

from qconvert.model.families.decoder.family import family_of
from qconvert.model.families.decoder.types import PRE, SILU_ONLY, Attention, Decoder, Only, Rope

TWELVE = "only StableLM 2 12B has it, which cannot be converted yet"

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
    only=(
        SILU_ONLY,
        Only("qk_layernorm", (False,), TWELVE),
        Only("use_parallel_residual", (False,), TWELVE),
    ),
    tied_output=True,
)

STABLELM = family_of(DECODER)
