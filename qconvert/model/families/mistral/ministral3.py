"""Ministral 3 and Mistral Small 3.1 to 3.2: a Llama under a name of its own; the part that sees is
left out. Ministral stretches positions by YaRN and sharpens attention with the distance."""

from dataclasses import replace
from typing import Any

from qconvert.checkpoint.metadata import Metadata, f32
from qconvert.checkpoint.types import Checkpoint
from qconvert.model.families.decoder.family import family_of
from qconvert.model.families.decoder.metadata import decoder_keys, decoder_limits
from qconvert.model.families.decoder.settings import decoder_settings
from qconvert.model.families.decoder.types import Attention, FeedForward
from qconvert.model.families.llama import llama
from qconvert.model.families.mistral import mistral
from qconvert.model.families.parts.common import expect, prefixed, real
from qconvert.model.families.parts.keys import Keys
from qconvert.model.families.parts.lines import IGNORED
from qconvert.model.families.parts.rope import rope_parameters
from qconvert.model.types import Config

VISION = r"(model\.)?(vision_tower|multi_modal_projector)\..*"
TEMPERATURE = "attention.temperature_scale"
LOG_MULTIPLIER = "rope.scaling.yarn_log_multiplier"

SMALL = replace(
    llama.DECODER,
    name="mistral3",
    model_type="mistral",
    classes=("Mistral3ForConditionalGeneration",),
    defaults={**mistral.DEFAULTS, "head_dim": 128},
    attention=Attention(regrouped=True, bias=False, output_bias=False, sized=True),
    feed_forward=FeedForward(),
    written={"sliding_window": None},
    pooled=False,
    ignored=(*IGNORED, VISION),
)

YARN = {
    "rope_type": "yarn",
    "rope_theta": 1_000_000.0,
    "factor": 16.0,
    "original_max_position_embeddings": 16_384,
    "beta_fast": 32.0,
    "beta_slow": 1.0,
    "mscale_all_dim": 1.0,
    "mscale": 1.0,
    "llama_4_scaling_beta": 0.1,
}

DECODER = replace(
    SMALL,
    model_type="ministral3",
    classes=("Ministral3ForCausalLM",),
    defaults={
        **llama.DEFAULTS,
        "vocab_size": 131_072,
        "intermediate_size": 14_336,
        "num_hidden_layers": 34,
        "num_key_value_heads": 8,
        "head_dim": 128,
        "max_position_embeddings": 262_144,
        "rms_norm_eps": 1e-5,
        "rope_parameters": YARN,
    },
    mark=TEMPERATURE,
)


def metadata(config: Config) -> Metadata:
    """With the multiplier of YaRN's magnitude as the settings have it: llama.cpp divides by it."""
    rope = rope_parameters(config)
    keys = decoder_keys(DECODER, config)
    scale = {TEMPERATURE: f32(real(rope, "llama_4_scaling_beta"))}
    if rope["rope_type"] == "yarn" and rope.get("mscale") == 1.0 and rope.get("mscale_all_dim"):
        keys.pop("mistral3.rope.scaling.attn_factor", None)
        scale[LOG_MULTIPLIER] = f32(real(rope, "mscale_all_dim"))
    return {**keys, **prefixed(DECODER.name, scale)}


def limits(config: Config) -> None:
    decoder_limits(DECODER, config)
    expect(rope_parameters(config), "rope_type", ("yarn",), "llama.cpp sharpens only with YaRN")


def small_limits(config: Config) -> None:
    decoder_limits(SMALL, config)
    expect(config, "model_type", ("mistral", "mistral3"))


def config_json(checkpoint: Checkpoint) -> dict[str, Any]:
    keys = Keys(checkpoint, DECODER.name)
    config = decoder_settings(DECODER, checkpoint)
    rope = {**config.pop("rope_scaling", {}), "rope_theta": config.pop("rope_theta")}
    rope["llama_4_scaling_beta"] = keys.real(TEMPERATURE)
    if keys.has(LOG_MULTIPLIER):
        rope |= {"mscale": 1.0, "mscale_all_dim": keys.real(LOG_MULTIPLIER)}
    return {**config, "rope_parameters": rope}


def small_config_json(checkpoint: Checkpoint) -> dict[str, Any]:
    """Of the text model, whose class is the plain one."""
    return {**decoder_settings(SMALL, checkpoint), "architectures": ["MistralForCausalLM"]}


MISTRAL3 = replace(family_of(SMALL), limits=small_limits, config=small_config_json)
MINISTRAL3 = replace(family_of(DECODER), metadata=metadata, limits=limits, config=config_json)
