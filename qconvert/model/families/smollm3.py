"""SmolLM3: a Llama that leaves out rotary embeddings in every fourth layer."""

from typing import Any

from qconvert.checkpoint.metadata import Metadata, u32
from qconvert.checkpoint.types import Checkpoint
from qconvert.errors import UnsupportedError
from qconvert.model.families import llama
from qconvert.model.families.common import (
    SILU,
    block_count,
    decoder_metadata,
    expect,
    head_size,
    prefixed,
)
from qconvert.model.families.keys import Keys, bias_flag, decoder_config
from qconvert.model.families.parts import IGNORED
from qconvert.model.families.rope import check_rope, rope_metadata
from qconvert.model.families.rope_config import rope_config
from qconvert.model.folding import DENSE
from qconvert.model.types import Config, Family

NAME = "smollm3"
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
}
INTERVAL = 4


def metadata(config: Config) -> Metadata:
    return {
        **decoder_metadata(NAME, config),
        **rope_metadata(NAME, config),
        **prefixed(NAME, {"rope.dimension_count": u32(head_size(config))}),
    }


def limits(config: Config) -> None:
    """llama.cpp has the pattern built in; `no_rope_layers` holds 1 where there is rotation."""
    expect(config, "hidden_act", SILU)
    expect(config, "attention_bias", (False,))
    expect(config, "mlp_bias", (False,))
    check_rope(config)
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
    keys = Keys(checkpoint, NAME)
    rotated = [int((layer + 1) % INTERVAL != 0) for layer in range(keys.blocks)]
    return {
        **decoder_config(keys, "SmolLM3ForCausalLM", "smollm3"),
        **rope_config(keys, THETA),
        "attention_bias": bias_flag(keys, llama.ATTENTION_BIASES),
        "mlp_bias": bias_flag(keys, llama.FEED_FORWARD_BIAS_NAMES),
        "no_rope_layers": rotated,
        "no_rope_layer_interval": INTERVAL,
        "layer_types": ["full_attention"] * keys.blocks,
        "use_sliding_window": False,
    }


SMOLLM3 = Family(
    name=NAME,
    classes=("SmolLM3ForCausalLM", "SmolLM3Model"),
    metadata=metadata,
    rules=llama.rules,
    defaults=DEFAULTS,
    limits=limits,
    ignored=IGNORED,
    config=config_json,
    folds=DENSE,
)
