"""Gemma 3 (text): norms stored as weight - 1, sliding windows in most layers, two rotary bases.

Of a multimodal checkpoint the language model is taken; its settings lie in `text_config`, and the
published ones leave out whatever is transformers' default.
"""

from collections.abc import Mapping
from typing import Any

from qconvert.checkpoint.metadata import Metadata, f32, flags, u32
from qconvert.checkpoint.types import Checkpoint
from qconvert.errors import CheckpointError, UnsupportedError
from qconvert.model.families.common import (
    block_count,
    decoder_metadata,
    expect,
    head_count,
    head_size,
    prefixed,
    real,
    whole,
)
from qconvert.model.families.keys import Keys, decoder_config
from qconvert.model.families.parts import (
    EMBEDDING,
    FEED_FORWARD,
    IGNORED,
    LAYER,
    attention,
    stated_biases,
)
from qconvert.model.families.rope import (
    PLAIN,
    check_rope,
    rope_metadata,
    sliding_rope,
)
from qconvert.model.families.rope_config import rope_config
from qconvert.model.folding import DENSE
from qconvert.model.types import Config, Family, Rule

NAME = "gemma3"
ACTIVATIONS = ("gelu_pytorch_tanh",)
KINDS = ("full_attention", "sliding_attention")
SCALED_BY_WIDTH = 62
"""Layers of the 27B model, whose queries llama.cpp scales by hidden size / heads."""

THETA, SLIDING_THETA = 1_000_000.0, 10_000.0

DEFAULTS = {
    "vocab_size": 262_208,
    "hidden_size": 2304,
    "intermediate_size": 9216,
    "num_hidden_layers": 26,
    "max_position_embeddings": 131_072,
    "num_attention_heads": 8,
    "num_key_value_heads": 4,
    "head_dim": 256,
    "rms_norm_eps": 1e-6,
    "rope_theta": THETA,
    "rope_local_base_freq": SLIDING_THETA,
    "query_pre_attn_scalar": 256,
    "sliding_window": 4096,
    "sliding_window_pattern": 6,
}


def metadata(config: Config) -> Metadata:
    settings = {**config, **heeded_rope(config)}
    keys: Metadata = {}
    if "final_logit_softcapping" in settings:
        keys["final_logit_softcapping"] = f32(real(settings, "final_logit_softcapping"))
    sliding = sliding_layers(settings)
    if any(sliding):
        keys["attention.sliding_window"] = u32(whole(settings, "sliding_window"))
        keys["rope.freq_base_swa"] = f32(real(sliding_rope(settings), "rope_theta"))
        if sliding != _every(6, len(sliding)):  # llama.cpp's own idea of it
            keys["attention.sliding_window_pattern"] = flags(sliding)
    return {
        **decoder_metadata(NAME, settings),
        **rope_metadata(NAME, settings),
        **prefixed(NAME, keys),
    }


def heeded_rope(settings: Config) -> dict[str, Any]:
    """What transformers' Gemma 3 heeds: of `rope_parameters` the sets for kinds of layers, of
    `rope_scaling` "rope_type" alone and not the older "type"."""
    heeded: dict[str, Any] = {}
    scaling, sets = settings.get("rope_scaling"), settings.get("rope_parameters")
    if isinstance(scaling, Mapping):
        heeded["rope_scaling"] = {**scaling, "type": None}
    if isinstance(sets, Mapping) and "full_attention" not in sets:
        heeded["rope_parameters"] = None
    return heeded


def limits(config: Config) -> None:
    settings = {**config, **heeded_rope(config)}
    check_rope(settings, (*PLAIN, "linear"))
    expect(settings, "hidden_act", ACTIVATIONS)
    expect(settings, "hidden_activation", ACTIVATIONS)
    expect(settings, "attention_bias", (False,))
    expect(settings, "use_bidirectional_attention", (False,))
    expect(settings, "attn_logit_softcapping", (), "Gemma 3 has none in llama.cpp")
    scalar = real(settings, "query_pre_attn_scalar")
    usual = head_size(settings)
    if block_count(settings) == SCALED_BY_WIDTH:
        usual = whole(settings, "hidden_size") // head_count(settings)
    if scalar != usual:
        raise UnsupportedError(
            f"config.json: query_pre_attn_scalar = {scalar:g}, but llama.cpp scales queries of "
            f"this Gemma 3 by {usual}"
        )


def sliding_layers(settings: dict[str, Any]) -> list[bool]:
    """Which layers see a window only."""
    count = block_count(settings)
    kinds = settings.get("layer_types")
    if kinds is None:
        default = whole(settings, "sliding_window_pattern")
        return _every(whole(settings, "_sliding_window_pattern", default=default), count)
    if not isinstance(kinds, list) or len(kinds) != count:
        raise CheckpointError(f"config.json: layer_types is no list of {count} names")
    if any(kind not in KINDS for kind in kinds):
        raise UnsupportedError(f"config.json: layer_types knows {' and '.join(KINDS)} only")
    return [kind == "sliding_attention" for kind in kinds]


def _every(interval: int, count: int) -> list[bool]:
    """Full attention in every layer of that number, windows in the others."""
    return [(layer + 1) % interval != 0 for layer in range(count)]


def rules(config: Config) -> tuple[Rule, ...]:
    source = LAYER + "self_attn."
    return (
        *EMBEDDING,
        Rule("blk.{i}.attn_norm.weight", LAYER + "input_layernorm.weight", add=1.0),
        *attention(),
        *stated_biases(config),
        Rule("blk.{i}.attn_q_norm.weight", source + "q_norm.weight", add=1.0),
        Rule("blk.{i}.attn_k_norm.weight", source + "k_norm.weight", add=1.0),
        Rule(
            "blk.{i}.post_attention_norm.weight",
            LAYER + "post_attention_layernorm.weight",
            add=1.0,
        ),
        Rule("blk.{i}.ffn_norm.weight", LAYER + "pre_feedforward_layernorm.weight", add=1.0),
        *FEED_FORWARD,
        Rule("blk.{i}.post_ffw_norm.weight", LAYER + "post_feedforward_layernorm.weight", add=1.0),
        Rule("output_norm.weight", "model.norm.weight", add=1.0),
        Rule("output.weight", "lm_head.weight", optional=True),
    )


def config_json(checkpoint: Checkpoint) -> dict[str, Any]:
    keys = Keys(checkpoint, NAME)
    settings = decoder_config(keys, "Gemma3ForCausalLM", "gemma3_text")
    sliding = _stored_pattern(keys)
    scalar = keys.head_size
    if keys.blocks == SCALED_BY_WIDTH:
        scalar = settings["hidden_size"] // settings["num_attention_heads"]
    config = {
        **settings,
        **rope_config(keys, THETA),
        "head_dim": keys.head_size,
        "hidden_activation": ACTIVATIONS[0],
        "attention_bias": False,
        "query_pre_attn_scalar": scalar,
        "layer_types": [KINDS[is_sliding] for is_sliding in sliding],
        "rope_local_base_freq": keys.real("rope.freq_base_swa", default=SLIDING_THETA),
        "final_logit_softcapping": None,
        "attn_logit_softcapping": None,
    }
    del config["hidden_act"]
    if any(sliding):
        config["sliding_window"] = keys.whole("attention.sliding_window")
    if keys.has("final_logit_softcapping"):
        config["final_logit_softcapping"] = keys.real("final_logit_softcapping")
    return config


def _stored_pattern(keys: Keys) -> list[bool]:
    """Which layers see a window only: a list, an interval, or llama.cpp's own idea of it."""
    pattern = keys.value("attention.sliding_window_pattern")
    if not keys.has("attention.sliding_window"):
        return [False] * keys.blocks
    if pattern is None or type(pattern) is int:
        return _every(keys.whole("attention.sliding_window_pattern", default=6), keys.blocks)
    if not isinstance(pattern, list) or len(pattern) != keys.blocks:
        raise CheckpointError(
            f"{NAME}.attention.sliding_window_pattern is no list of {keys.blocks} flags"
        )
    return [bool(is_sliding) for is_sliding in pattern]


GEMMA3 = Family(
    name=NAME,
    classes=("Gemma3ForCausalLM", "Gemma3ForConditionalGeneration"),
    metadata=metadata,
    rules=rules,
    defaults=DEFAULTS,
    limits=limits,
    ignored=(*IGNORED, r"(model\.)?(vision_tower|multi_modal_projector)\..*"),
    config=config_json,
    folds=DENSE,
)
