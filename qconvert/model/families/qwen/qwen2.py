"""Qwen2 and Qwen2.5 (dense)."""

from qconvert.model.families.decoder.family import family_of
from qconvert.model.families.decoder.types import Attention, Decoder

DEFAULTS = {
    "vocab_size": 151936,
    "hidden_size": 4096,
    "intermediate_size": 22016,
    "num_hidden_layers": 32,
    "num_attention_heads": 32,
    "num_key_value_heads": 32,
    "max_position_embeddings": 32768,
    "rms_norm_eps": 1e-06,
    "rope_theta": 10000.0,
}

DECODER = Decoder(
    name="qwen2",
    model_type="qwen2",
    classes=("Qwen2ForCausalLM", "Qwen2Model"),
    defaults=DEFAULTS,
    attention=Attention(bias=True, output_bias=False, square=True),
    written={"use_sliding_window": False},
    pooled=True,
    window_by_choice=True,
)

QWEN2 = family_of(DECODER)
