"""Granite 3 (dense): a Llama with four multipliers."""

from dataclasses import replace

from qconvert.model.families.decoder.family import family_of
from qconvert.model.families.decoder.types import Scalar
from qconvert.model.families.llama import llama

SCALARS = (
    Scalar("attention_multiplier", "attention.scale"),
    Scalar("embedding_multiplier", "embedding_scale"),
    Scalar("residual_multiplier", "residual_scale"),
    Scalar("logits_scaling", "logit_scale"),
)

DECODER = replace(
    llama.DECODER,
    name="granite",
    model_type="granite",
    classes=("GraniteForCausalLM",),
    defaults={**llama.DEFAULTS, **{scalar.setting: scalar.default for scalar in SCALARS}},
    scalars=SCALARS,
    pooled=False,
)

GRANITE = family_of(DECODER)
