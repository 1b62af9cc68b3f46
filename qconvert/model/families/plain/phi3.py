"""Phi-3, Phi-3.5 and Phi-4: fused query, key and value, and fused gate and up, both kept so.

The long-context models turn their heads by LongRoPE (arXiv 2402.13753): one table of factors for
sequences within the original context, one for longer ones.
"""

import math
from dataclasses import replace
from typing import Any

import numpy as np

from qconvert.checkpoint.metadata import Metadata, f32, u32
from qconvert.checkpoint.types import Checkpoint
from qconvert.errors import CheckpointError
from qconvert.model.families.decoder.family import family_of
from qconvert.model.families.decoder.metadata import decoder_keys, turned
from qconvert.model.families.decoder.settings import decoder_settings
from qconvert.model.families.decoder.types import FUSED, Attention, Decoder, Rope
from qconvert.model.families.parts.common import prefixed, real, whole
from qconvert.model.families.parts.keys import Keys
from qconvert.model.families.parts.rope import PLAIN, rope_parameters
from qconvert.model.families.parts.rope_config import read_factors
from qconvert.model.types import Config

DEFAULTS = {
    "vocab_size": 32064,
    "hidden_size": 3072,
    "intermediate_size": 8192,
    "num_hidden_layers": 32,
    "num_attention_heads": 32,
    "max_position_embeddings": 4096,
    "original_max_position_embeddings": 4096,
    "rms_norm_eps": 1e-05,
    "rope_theta": 10000.0,
}
LONG = ("longrope", "su")
"""Names of LongRoPE."""

DECODER = Decoder(
    name="phi3",
    model_type="phi3",
    classes=("Phi3ForCausalLM", "Phi3Model"),
    defaults=DEFAULTS,
    attention=Attention(fused=True, bias=False, output_bias=False, square=True),
    rope=Rope((*PLAIN, *LONG), partly=True, counted=True),
    feed_forward=FUSED,
)


def metadata(config: Config) -> Metadata:
    longest = whole(config, "max_position_embeddings")
    keys = {
        "rope.scaling.original_context_length": u32(_original(config)),
        # llama.cpp tells Phi-4, which has no window, by the zero.
        "attention.sliding_window": u32(_window(config)),
    }
    if _is_long(config):
        keys["rope.scaling.attn_factor"] = f32(_magnitude(config, longest))
    return {**decoder_keys(DECODER, config), **prefixed(DECODER.name, keys)}


def constants(config: Config) -> dict[str, np.ndarray]:
    """`rope_factors_{long,short}.weight`, float32 [turned elements of a head / 2]."""
    if not _is_long(config):
        return {}
    rope = rope_parameters(config)
    return {
        "rope_factors_long.weight": _factors(rope.get("long_factor"), turned(config) // 2),
        "rope_factors_short.weight": _factors(rope.get("short_factor"), turned(config) // 2),
    }


def _window(config: Config) -> int:
    return whole(config, "sliding_window") if config.get("sliding_window") else 0


def _is_long(config: Config) -> bool:
    return rope_parameters(config)["rope_type"] in LONG


def _original(config: Config) -> int:
    """The context before it was stretched."""
    rope = rope_parameters(config)
    longest = whole(config, "max_position_embeddings")
    return whole(rope, "original_max_position_embeddings", default=longest)


def _magnitude(config: Config, longest: int) -> float:
    """What queries and keys are scaled by, as transformers computes it."""
    rope = rope_parameters(config)
    if rope.get("attention_factor") is not None:
        return real(rope, "attention_factor")
    original = _original(config)
    factor = real(rope, "factor", default=longest / original)
    if factor <= 1.0 or original <= 1:
        return 1.0
    return math.sqrt(1.0 + math.log(factor) / math.log(original))


def _factors(values: Any, size: int) -> np.ndarray:
    usable = isinstance(values, list) and all(isinstance(value, int | float) for value in values)
    if not usable or len(values) != size:
        raise CheckpointError(f"config.json: LongRoPE needs lists of {size} factors")
    return np.array(values, dtype=np.float32)


def config_json(checkpoint: Checkpoint) -> dict[str, Any]:
    keys = Keys(checkpoint, DECODER.name)
    original = keys.whole(
        "rope.scaling.original_context_length", default=keys.whole("context_length")
    )
    config = {
        **decoder_settings(DECODER, checkpoint),
        "original_max_position_embeddings": original,
        "sliding_window": None,
        "attention_bias": False,
    }
    if keys.value("attention.sliding_window"):  # zero stands for none
        config["sliding_window"] = keys.whole("attention.sliding_window")
    if keys.has_tensor("rope_factors_long.weight"):
        config["rope_scaling"] = _longrope(keys, original)
    return config


def _longrope(keys: Keys, original: int) -> dict[str, Any]:
    """The two tables, in the fewest digits that give the stored float32."""
    scaling: dict[str, Any] = {"rope_type": "longrope", "type": "longrope"}
    for name in ("long", "short"):
        values = read_factors(keys, f"rope_factors_{name}.weight")
        scaling[f"{name}_factor"] = [float(str(value)) for value in values]
    factor = keys.whole("context_length") / original
    usual = 1.0
    if factor > 1.0 and original > 1:
        usual = math.sqrt(1.0 + math.log(factor) / math.log(original))
    stored = keys.real("rope.scaling.attn_factor", default=1.0)
    if not math.isclose(stored, usual, rel_tol=1e-6):
        scaling["attention_factor"] = stored
    return scaling


PHI3 = replace(family_of(DECODER), metadata=metadata, constants=constants, config=config_json)
