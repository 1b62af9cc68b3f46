"""OLMo 2 (arXiv 2501.00656): norms behind attention and feed-forward, and over all query and all
key heads together."""

from qconvert.model.families.decoder.family import family_of
from qconvert.model.families.decoder.types import POST, SILU_ONLY, Attention, Decoder, Only
from qconvert.model.families.llama import llama

DECODER = Decoder(
    name="olmo2",
    model_type="olmo2",
    classes=("Olmo2ForCausalLM",),
    defaults={**llama.DEFAULTS, "vocab_size": 50304, "rms_norm_eps": 1e-5},
    norms=POST,
    attention=Attention(qk_norms="all", square=True),
    only=(SILU_ONLY, Only("attention_bias", (False,))),
    tied_output=True,
)

OLMO2 = family_of(DECODER)
