"""Qwen3 (dense): Qwen2 with a norm over each query and key head."""

from dataclasses import replace

from qconvert.model.families.decoder.family import family_of
from qconvert.model.families.decoder.types import SILU_ONLY, Attention, Only
from qconvert.model.families.qwen import qwen2

DECODER = replace(
    qwen2.DECODER,
    name="qwen3",
    model_type="qwen3",
    classes=("Qwen3ForCausalLM", "Qwen3Model"),
    defaults={**qwen2.DEFAULTS, "head_dim": 128},
    attention=Attention(qk_norms="heads", sized=True),
    only=(SILU_ONLY, Only("attention_bias", (False,))),
)

QWEN3 = family_of(DECODER)
