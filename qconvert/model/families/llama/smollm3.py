"""SmolLM3: a Llama that leaves out rotary embeddings in every fourth layer."""

from dataclasses import replace
from typing import Any

from qconvert.checkpoint.types import Checkpoint
from qconvert.errors import UnsupportedError
from qconvert.model.families.decoder.family import family_of
from qconvert.model.families.decoder.metadata import decoder_limits
from qconvert.model.families.decoder.settings import decoder_settings
from qconvert.model.families.decoder.types import SILU_ONLY, Only, Rope
from qconvert.model.families.llama import llama
from qconvert.model.families.parts.common import block_count
from qconvert.model.types import Config

THETA = 2_000_000.0
DEFAULTS = {
    "vocab_size": 128256,
    "hidden_size": 2048,
    "intermediate_size": 11008,
    "num_hidden_layers": 36,
    "num_attention_heads": 16,
    "num_key_value_heads": 4,
    "max_position_embeddings": 32768,
    "rms_norm_eps": 1e-06,
    "rope_theta": THETA,
    "tie_word_embeddings": True,
}
INTERVAL = 4

DECODER = replace(
    llama.DECODER,
    name="smollm3",
    model_type="smollm3",
    classes=("SmolLM3ForCausalLM", "SmolLM3Model"),
    defaults=DEFAULTS,
    rope=Rope(theta=THETA, counted=True),
    only=(SILU_ONLY, Only("attention_bias", (False,)), Only("mlp_bias", (False,))),
    pooled=False,
)


def limits(config: Config) -> None:
    """llama.cpp has the pattern built in; `no_rope_layers` holds 1 where there is rotation."""
    decoder_limits(DECODER, config)
    usual = [int((layer + 1) % INTERVAL != 0) for layer in range(block_count(config))]
    stated = config.get("no_rope_layers")
    if stated is None:
        interval = config.get("no_rope_layer_interval") or INTERVAL
        stated = usual if interval == INTERVAL else []
    if stated != usual or config.get("use_sliding_window"):
        raise UnsupportedError(
            "config.json: llama.cpp runs SmolLM3 only without rotation in every fourth layer and "
            "with full attention"
        )


def config_json(checkpoint: Checkpoint) -> dict[str, Any]:
    config = decoder_settings(DECODER, checkpoint)
    blocks = config["num_hidden_layers"]
    return {
        **config,
        "no_rope_layers": [int((layer + 1) % INTERVAL != 0) for layer in range(blocks)],
        "no_rope_layer_interval": INTERVAL,
        "layer_types": ["full_attention"] * blocks,
        "use_sliding_window": False,
    }


SMOLLM3 = replace(family_of(DECODER), limits=limits, config=config_json)
