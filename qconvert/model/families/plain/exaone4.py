"""EXAONE 4.0: norms behind attention and feed-forward, and of each head. The 32B model has windows
in three of four layers, and the fourth does not turn."""

from dataclasses import replace

from qconvert.errors import UnsupportedError
from qconvert.model.families.decoder.family import family_of
from qconvert.model.families.decoder.metadata import decoder_limits
from qconvert.model.families.decoder.types import POST, Attention, Decoder, Rope, Windows
from qconvert.model.families.decoder.windows import sliding_blocks
from qconvert.model.families.llama import llama
from qconvert.model.families.parts.rope import ROPE_TYPES
from qconvert.model.types import Config

WITH_WINDOWS = 64
"""Layers of the model that has windows in llama.cpp."""

WINDOWS = Windows(4, 4, older=("sliding_window_pattern",))

DECODER = Decoder(
    name="exaone4",
    model_type="exaone4",
    classes=("Exaone4ForCausalLM",),
    defaults={
        **llama.DEFAULTS,
        "vocab_size": 102_400,
        "intermediate_size": 16_384,
        "num_key_value_heads": 32,
        "rms_norm_eps": 1e-5,
        "sliding_window": 4096,
    },
    norms=POST,
    attention=Attention(bias=False, output_bias=False, qk_norms="heads", square=True),
    rope=Rope((*ROPE_TYPES, "llama3")),
    windows=WINDOWS,
    written={"sliding_window": None},
)


def limits(config: Config) -> None:
    decoder_limits(DECODER, config)
    count = config["num_hidden_layers"]
    slides, has_window = any(sliding_blocks(WINDOWS, config)), bool(config.get("sliding_window"))
    if {slides, has_window} != {count == WITH_WINDOWS}:
        raise UnsupportedError(
            f"config.json: llama.cpp runs EXAONE 4 with windows in {WITH_WINDOWS} layers, and "
            f"without in another number; here are {count} {'with' if has_window else 'without'}"
        )


EXAONE4 = replace(family_of(DECODER), limits=limits)
