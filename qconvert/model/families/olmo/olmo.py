"""OLMo (arXiv 2402.00838): layer norms that have no weights, and, in some, queries, keys and values
that are cut off at a number."""

from dataclasses import replace

from qconvert.model.families.decoder.family import family_of
from qconvert.model.families.decoder.rules import decoder_rules
from qconvert.model.families.decoder.types import (
    SILU_ONLY,
    Attention,
    Decoder,
    Norms,
    Only,
    Scalar,
)
from qconvert.model.families.llama import llama
from qconvert.model.families.parts.lines import OUTPUT
from qconvert.model.types import Config, Rule

EPSILON = "layer_norm_eps"

DECODER = Decoder(
    name="olmo",
    model_type="olmo",
    classes=("OlmoForCausalLM",),
    defaults={**llama.DEFAULTS, "vocab_size": 50_304, EPSILON: 1e-5},
    norms=Norms(kind="layer", epsilon=EPSILON, of_attention="", of_feed_forward=""),
    attention=Attention(regrouped=True, square=True),
    scalars=(Scalar("clip_qkv", "attention.clamp_kqv", optional=True),),
    only=(SILU_ONLY, Only("attention_bias", (False,)), Only(EPSILON, (1e-5,))),
)


def rules(config: Config) -> tuple[Rule, ...]:
    norm = OUTPUT[0].gguf
    return tuple(rule for rule in decoder_rules(DECODER, config) if rule.gguf != norm)


OLMO = replace(family_of(DECODER), rules=rules)
