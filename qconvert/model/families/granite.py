"""Granite 3 (dense): a Llama with four multipliers."""

from typing import Any

from qconvert.checkpoint.metadata import Metadata, f32, u32
from qconvert.checkpoint.types import Checkpoint
from qconvert.model.families import llama
from qconvert.model.families.common import decoder_metadata, head_size, prefixed, real
from qconvert.model.families.keys import Keys, bias_flag, decoder_config
from qconvert.model.families.parts import IGNORED
from qconvert.model.families.rope import llama3_factors, rope_metadata
from qconvert.model.families.rope_config import rope_config
from qconvert.model.folding import DENSE
from qconvert.model.types import Config, Family

NAME = "granite"
DEFAULTS = {
    **llama.DEFAULTS,
    "attention_multiplier": 1.0,
    "embedding_multiplier": 1.0,
    "residual_multiplier": 1.0,
    "logits_scaling": 1.0,
}


def metadata(config: Config) -> Metadata:
    multipliers = {
        "attention.scale": f32(real(config, "attention_multiplier")),
        "embedding_scale": f32(real(config, "embedding_multiplier")),
        "residual_scale": f32(real(config, "residual_multiplier")),
        "logit_scale": f32(real(config, "logits_scaling")),
        "rope.dimension_count": u32(head_size(config)),
    }
    return {
        **decoder_metadata(NAME, config),
        **rope_metadata(NAME, config),
        **prefixed(NAME, multipliers),
    }


def config_json(checkpoint: Checkpoint) -> dict[str, Any]:
    keys = Keys(checkpoint, NAME)
    return {
        **decoder_config(keys, "GraniteForCausalLM", "granite"),
        **rope_config(keys),
        "attention_bias": bias_flag(keys, llama.ATTENTION_BIASES),
        "mlp_bias": bias_flag(keys, llama.FEED_FORWARD_BIAS_NAMES),
        "attention_multiplier": keys.real("attention.scale", default=1.0),
        "embedding_multiplier": keys.real("embedding_scale", default=1.0),
        "residual_multiplier": keys.real("residual_scale", default=1.0),
        "logits_scaling": keys.real("logit_scale", default=1.0),
    }


GRANITE = Family(
    name=NAME,
    classes=("GraniteForCausalLM",),
    metadata=metadata,
    rules=llama.rules,
    defaults=DEFAULTS,
    limits=llama.limits,
    constants=llama3_factors,
    ignored=IGNORED,
    config=config_json,
    folds=DENSE,
)
