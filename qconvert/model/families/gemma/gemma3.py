"""Gemma 3 (text): norms stored as weight - 1, sliding windows in most layers, two rotary bases.

Of a multimodal checkpoint the language model is taken; its settings lie in `text_config`, and the
published ones leave out whatever is transformers' default.
"""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from qconvert.checkpoint.metadata import Metadata
from qconvert.checkpoint.types import Checkpoint
from qconvert.errors import UnsupportedError
from qconvert.model.families.decoder.family import family_of
from qconvert.model.families.decoder.metadata import decoder_keys, decoder_limits
from qconvert.model.families.decoder.settings import decoder_settings
from qconvert.model.families.decoder.types import (
    SANDWICH,
    Attention,
    Decoder,
    Only,
    Rope,
    Scalar,
    Windows,
)
from qconvert.model.families.decoder.windows import sliding_blocks
from qconvert.model.families.parts.common import (
    block_count,
    expect,
    head_count,
    head_size,
    real,
    whole,
)
from qconvert.model.families.parts.lines import IGNORED
from qconvert.model.families.parts.rope import PLAIN
from qconvert.model.types import Config

ACTIVATIONS = ("gelu_pytorch_tanh",)
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
    "tie_word_embeddings": True,
}

WINDOWS = Windows(
    6, 6, older=("_sliding_window_pattern", "sliding_window_pattern"), theta=SLIDING_THETA
)

DECODER = Decoder(
    name="gemma3",
    model_type="gemma3_text",
    classes=("Gemma3ForCausalLM", "Gemma3ForConditionalGeneration"),
    defaults=DEFAULTS,
    norms=replace(SANDWICH, shift=1.0),
    attention=Attention(qk_norms="heads", sized=True),
    rope=Rope((*PLAIN, "linear"), THETA),
    scalars=(Scalar("final_logit_softcapping", "final_logit_softcapping", optional=True),),
    windows=WINDOWS,
    only=(
        Only("hidden_activation", ACTIVATIONS),
        Only("attention_bias", (False,)),
        Only("attn_logit_softcapping", (), "Gemma 3 has none in llama.cpp"),
    ),
    ignored=(*IGNORED, r"(model\.)?(vision_tower|multi_modal_projector)\..*"),
)


def metadata(config: Config) -> Metadata:
    return decoder_keys(DECODER, {**config, **heeded_rope(config)})


def heeded_rope(settings: Config) -> dict[str, Any]:
    """What transformers heeds where kinds of layers turn differently: of `rope_parameters` the
    sets for kinds of layers, of `rope_scaling` "rope_type" alone and not the older "type"."""
    heeded: dict[str, Any] = {}
    scaling, sets = settings.get("rope_scaling"), settings.get("rope_parameters")
    if isinstance(scaling, Mapping):
        heeded["rope_scaling"] = {**scaling, "type": None}
    if isinstance(sets, Mapping) and "full_attention" not in sets:
        heeded["rope_parameters"] = None
    return heeded


def limits(config: Config) -> None:
    settings = {**config, **heeded_rope(config)}
    decoder_limits(DECODER, settings)
    expect(settings, "hidden_act", ACTIVATIONS)
    expect(settings, "use_bidirectional_attention", (False,))
    check_query_scale(settings, block_count(settings) == SCALED_BY_WIDTH)


def check_query_scale(settings: Config, by_width: bool) -> None:
    """Refuse queries that llama.cpp would scale otherwise.

    Args:
        by_width: it scales them by hidden size / heads, and not by the size of a head.
    """
    scalar = real(settings, "query_pre_attn_scalar")
    usual = head_size(settings)
    if by_width:
        usual = whole(settings, "hidden_size") // head_count(settings)
    if scalar != usual:
        raise UnsupportedError(
            f"config.json: query_pre_attn_scalar = {scalar:g}, but llama.cpp scales queries of "
            f"this Gemma by {usual}"
        )


def sliding_layers(settings: Config) -> list[bool]:
    """Which layers see a window only."""
    return sliding_blocks(WINDOWS, settings)


def config_json(checkpoint: Checkpoint) -> dict[str, Any]:
    return gemma_settings(DECODER, checkpoint, SCALED_BY_WIDTH)


def gemma_settings(decoder: Decoder, checkpoint: Checkpoint, by_width: int) -> dict[str, Any]:
    """Gemma's settings, of a file.

    Args:
        by_width: the number of blocks of the model whose queries are scaled by hidden size / heads.
    """
    config = decoder_settings(decoder, checkpoint)
    del config["hidden_act"]
    scalar = config["head_dim"]
    if config["num_hidden_layers"] == by_width:
        scalar = config["hidden_size"] // config["num_attention_heads"]
    return {**config, "query_pre_attn_scalar": scalar}


GEMMA3 = replace(family_of(DECODER), metadata=metadata, limits=limits, config=config_json)
