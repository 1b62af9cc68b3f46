"""OLMo 3: OLMo 2 with a window in three of four layers, whose frequencies are never stretched."""

from dataclasses import replace

from qconvert.model.families import olmo2
from qconvert.model.families.decoder.family import family_of
from qconvert.model.families.decoder.types import Windows

DECODER = replace(
    olmo2.DECODER,
    mark="attention.sliding_window",
    model_type="olmo3",
    classes=("Olmo3ForCausalLM",),
    defaults={**olmo2.DECODER.defaults, "rope_theta": 500_000.0, "sliding_window": 4096},
    windows=Windows(4, 4),
)

OLMO3 = family_of(DECODER)
