"""OLMo 3: OLMo 2 with a window in three of four layers, whose frequencies are never stretched."""

from dataclasses import replace

from qconvert.checkpoint.metadata import Metadata
from qconvert.model.families import olmo2
from qconvert.model.families.decoder.family import family_of
from qconvert.model.families.decoder.metadata import decoder_keys, decoder_limits
from qconvert.model.families.decoder.types import Windows
from qconvert.model.families.gemma3 import heeded_rope
from qconvert.model.types import Config

DECODER = replace(
    olmo2.DECODER,
    mark="attention.sliding_window",
    model_type="olmo3",
    classes=("Olmo3ForCausalLM",),
    defaults={**olmo2.DECODER.defaults, "rope_theta": 500_000.0, "sliding_window": 4096},
    windows=Windows(4, 4),
)


def metadata(config: Config) -> Metadata:
    return decoder_keys(DECODER, {**config, **heeded_rope(config)})


def limits(config: Config) -> None:
    decoder_limits(DECODER, {**config, **heeded_rope(config)})


OLMO3 = replace(family_of(DECODER), metadata=metadata, limits=limits)
