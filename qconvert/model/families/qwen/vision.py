"""The language models of Qwen2-VL, Qwen2.5-VL and Qwen3-VL, dense and with experts: Qwen2 and Qwen3
whose pairs of a head turn by time, height and width, which are one where there is text alone. The
experts of Qwen3-VL are stored [experts, in, out].

They keep the architecture that llama.cpp joins with what sees, and say how many of its layers
reach into theirs.
"""

from collections.abc import Mapping
from dataclasses import replace
from functools import partial

from qconvert.checkpoint.metadata import Metadata, i32s, u32
from qconvert.errors import UnsupportedError
from qconvert.model.families.decoder.family import family_of
from qconvert.model.families.decoder.metadata import decoder_keys, decoder_limits
from qconvert.model.families.decoder.types import Decoder, Experts, Rope
from qconvert.model.families.parts.common import whole
from qconvert.model.families.parts.lines import IGNORED
from qconvert.model.families.parts.rope import ROPE_TYPES, rope_sections
from qconvert.model.families.qwen import qwen2, qwen3, qwen3_moe
from qconvert.model.types import Config

SECTIONS, SECTIONS_OF_3 = [16, 24, 24], [24, 20, 20]
DEEP = (8, 16, 24)
"""Layers of what sees that reach into the language model, where config.json does not say it."""

VISUAL = (*IGNORED, r"(model\.)?visual\..*")
ROPE = Rope((*ROPE_TYPES, "mrope"))

DECODER = replace(
    qwen2.DECODER,
    name="qwen2vl",
    model_type="qwen2_5_vl_text",
    classes=("Qwen2_5_VLForConditionalGeneration", "Qwen2VLForConditionalGeneration"),
    defaults={
        **qwen2.DEFAULTS,
        "vocab_size": 152_064,
        "hidden_size": 8192,
        "intermediate_size": 29_568,
        "num_hidden_layers": 80,
        "num_attention_heads": 64,
        "num_key_value_heads": 8,
        "rms_norm_eps": 1e-5,
        "rope_theta": 1_000_000.0,
    },
    rope=ROPE,
    ignored=VISUAL,
    pooled=False,
)

DECODER_OF_3 = replace(
    qwen3.DECODER,
    name="qwen3vl",
    model_type="qwen3_vl_text",
    classes=("Qwen3VLForConditionalGeneration",),
    defaults={
        **qwen3.DECODER.defaults,
        "max_position_embeddings": 128_000,
        "rope_theta": 500_000.0,
    },
    rope=ROPE,
    ignored=VISUAL,
    pooled=False,
)

DECODER_OF_MOE = replace(
    qwen3_moe.DECODER,
    name="qwen3vlmoe",
    model_type="qwen3_vl_moe_text",
    classes=("Qwen3VLMoeForConditionalGeneration",),
    defaults={
        **{key: v for key, v in qwen3_moe.DECODER.defaults.items() if key != "norm_topk_prob"},
        "intermediate_size": 5632,
        "num_attention_heads": 16,
        "num_key_value_heads": 16,
        "max_position_embeddings": 128_000,
        "rope_theta": 500_000.0,
        "num_experts": 60,
        "num_experts_per_tok": 4,
        "moe_intermediate_size": 1408,
    },
    experts=Experts(dense=qwen3_moe.dense_blocks, single=(), inward=True),
    only=(*qwen3.DECODER.only, *qwen3_moe.EVERYWHERE),
    rope=ROPE,
    ignored=VISUAL,
)


def metadata(config: Config) -> Metadata:
    sections = i32s([*rope_sections(config, SECTIONS), 0])
    return {**decoder_keys(DECODER, config), f"{DECODER.name}.rope.dimension_sections": sections}


def metadata_of_3(decoder: Decoder, config: Config) -> Metadata:
    vision = config.get("vision_config")
    deep = vision.get("deepstack_visual_indexes", DEEP) if isinstance(vision, Mapping) else DEEP
    name = decoder.name
    return {
        **decoder_keys(decoder, config),
        f"{name}.rope.dimension_sections": i32s([*rope_sections(config, SECTIONS_OF_3), 0]),
        f"{name}.n_deepstack_layers": u32(len(deep) if isinstance(deep, list | tuple) else 0),
    }


def limits_of_moe(config: Config) -> None:
    """Raises UnsupportedError: it cannot be told how experts lie, which transformers turns when it
    loads them, and may write either way."""
    decoder_limits(DECODER_OF_MOE, config)
    width, size = whole(config, "hidden_size"), whole(config, "moe_intermediate_size")
    if width in (size, 2 * size):
        raise UnsupportedError(
            f"config.json: experts of {size} in a model of {width} may lie in either direction"
        )


QWEN2_VL = replace(family_of(DECODER), metadata=metadata, config=None, stand_in="Qwen2ForCausalLM")
QWEN3_VL = replace(
    family_of(DECODER_OF_3),
    metadata=partial(metadata_of_3, DECODER_OF_3),
    config=None,
    stand_in="Qwen3ForCausalLM",
)
QWEN3_VL_MOE = replace(
    family_of(DECODER_OF_MOE),
    metadata=partial(metadata_of_3, DECODER_OF_MOE),
    limits=limits_of_moe,
    config=None,
    stand_in="Qwen3MoeForCausalLM",
    stand_in_settings={"norm_topk_prob": True},
)
