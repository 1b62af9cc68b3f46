"""OLMo 3: OLMo 2 with a window in three of four layers, whose frequencies are never stretched."""

from dataclasses import replace
from typing import Any

from qconvert.checkpoint.metadata import Metadata
from qconvert.checkpoint.types import Checkpoint
from qconvert.errors import UnsupportedError
from qconvert.model.families.decoder.family import family_of
from qconvert.model.families.decoder.metadata import decoder_keys, decoder_limits
from qconvert.model.families.decoder.settings import decoder_settings
from qconvert.model.families.decoder.types import Windows
from qconvert.model.families.gemma.gemma3 import heeded_rope
from qconvert.model.families.olmo import olmo2
from qconvert.model.families.parts.rope import rope_parameters, sliding_rope
from qconvert.model.types import Config

THETA = 500_000.0

DECODER = replace(
    olmo2.DECODER,
    mark="attention.sliding_window",
    model_type="olmo3",
    classes=("Olmo3ForCausalLM",),
    defaults={**olmo2.DECODER.defaults, "rope_theta": THETA, "sliding_window": 4096},
    windows=Windows(4, 4),
)


def metadata(config: Config) -> Metadata:
    return decoder_keys(DECODER, {**config, **heeded_rope(config)})


def limits(config: Config) -> None:
    settings = {**config, **heeded_rope(config)}
    decoder_limits(DECODER, settings)
    sliding = sliding_rope({**settings, "rope_local_base_freq": None}).get("rope_theta") or THETA
    if sliding != rope_parameters(settings)["rope_theta"]:
        raise UnsupportedError(
            "config.json: llama.cpp turns all layers of this family by one rope_theta, and those "
            "with a window have another"
        )


def config_json(checkpoint: Checkpoint) -> dict[str, Any]:
    """With the settings of both kinds of layers, of which transformers has one by itself."""
    config = decoder_settings(DECODER, checkpoint)
    theta = config.pop("rope_theta")
    plain = {"rope_type": "default", "rope_theta": theta}
    full = {**plain, **config.pop("rope_scaling", {})}
    return {**config, "rope_parameters": {"full_attention": full, "sliding_attention": plain}}


OLMO3 = replace(family_of(DECODER), metadata=metadata, limits=limits, config=config_json)
