"""Multi-head latent attention (MLA, arXiv 2405.04434): keys and values of all heads are made of one
latent vector, and a part of the keys, which turns, is the same for all heads.

llama.cpp keeps the latent vector alone, so that `kv_b_proj` falls into two:

    kv_b_proj   [heads * (key + value), rank]
    attn_k_b    [heads, rank, key]      queries are multiplied with it, in place of the latent
    attn_v_b    [heads, value, rank]    what attention has mixed is multiplied with it

To its attention there is one head of keys, of `rank` + turning elements.
Source: llama.cpp's src/models/deepseek2.cpp, transformers' models/deepseek_v3.
"""

import math
from dataclasses import dataclass

from qconvert.checkpoint.metadata import Metadata, f32, u32
from qconvert.errors import UnsupportedError
from qconvert.model.families.parts.common import decoder_metadata, prefixed, real, whole
from qconvert.model.families.parts.lines import LAYER
from qconvert.model.families.parts.rope import check_rope, rope_metadata, rope_parameters
from qconvert.model.types import Config, Rule

EPSILON = 1e-6
"""Of the norms of latent vectors, in transformers."""

SHAPES = {
    "attn_q.weight": ("query_mla", "hidden"),
    "attn_q_a.weight": ("query_rank", "hidden"),
    "attn_q_a_norm.weight": ("query_rank",),
    "attn_q_b.weight": ("query_mla", "query_rank"),
    "attn_kv_a_mqa.weight": ("head", "hidden"),
    "attn_kv_a_norm.weight": ("rank",),
    "attn_k_b.weight": ("heads", "rank", "key_mla"),
    "attn_v_b.weight": ("heads", "value_mla", "rank"),
    "attn_output.weight": ("hidden", "values_mla"),
}


@dataclass(frozen=True)
class Sizes:
    """Of one head: elements of keys that do not turn, that turn, and of values; and the rank."""

    key: int
    turning: int
    value: int
    rank: int


def sizes_of(config: Config) -> Sizes:
    names = ("qk_nope_head_dim", "qk_rope_head_dim", "v_head_dim", "kv_lora_rank")
    return Sizes(*(whole(config, name) for name in names))


def metadata(name: str, config: Config) -> Metadata:
    """The sizes of a decoder with such attention, and how it turns."""
    sizes = sizes_of(config)
    keys = {
        "attention.head_count_kv": u32(1),
        "attention.key_length": u32(sizes.rank + sizes.turning),
        "attention.value_length": u32(sizes.rank),
        "attention.key_length_mla": u32(sizes.key + sizes.turning),
        "attention.value_length_mla": u32(sizes.value),
        "attention.kv_lora_rank": u32(sizes.rank),
        "rope.dimension_count": u32(sizes.turning),
    }
    if config.get("q_lora_rank") is not None:
        keys["attention.q_lora_rank"] = u32(whole(config, "q_lora_rank"))
    rope = rope_parameters(config)
    if rope["rope_type"] == "yarn":
        keys["rope.scaling.yarn_log_multiplier"] = f32(0.1 * real(rope, "mscale_all_dim"))
    turned = rope_metadata(name, config)
    turned.pop(f"{name}.rope.scaling.attn_factor", None)  # follows from the multiplier
    return {**decoder_metadata(name, config), **turned, **prefixed(name, keys)}


def limits(config: Config) -> None:
    check_rope(config)
    rope = rope_parameters(config)
    if rope["rope_type"] != "yarn":
        return
    whole_scale = real(rope, "mscale_all_dim", default=0.0)
    scale = real(rope, "mscale", default=0.0)
    own = real(rope, "attention_factor", default=1.0)
    if not whole_scale or not math.isclose(scale, whole_scale) or own != 1.0:
        raise UnsupportedError(
            "config.json: llama.cpp runs latent attention with YaRN only where mscale is "
            "mscale_all_dim, and no attention_factor is given"
        )


def caveats(config: Config) -> tuple[str, ...]:
    epsilon = real(config, "rms_norm_eps")
    if epsilon == EPSILON:
        return ()
    return (
        f"llama.cpp takes rms_norm_eps = {epsilon:g} for the norms of latent vectors too, where "
        f"transformers has {EPSILON:g}: logits differ a little",
    )


def attention(config: Config) -> tuple[Rule, ...]:
    source, sizes = LAYER + "self_attn.", sizes_of(config)
    both = sizes.key + sizes.value
    pair = source + "kv_b_proj.weight"
    queries: tuple[Rule, ...] = (Rule("blk.{i}.attn_q.weight", source + "q_proj.weight"),)
    if config.get("q_lora_rank") is not None:
        queries = (
            Rule("blk.{i}.attn_q_a.weight", source + "q_a_proj.weight"),
            Rule("blk.{i}.attn_q_a_norm.weight", source + "q_a_layernorm.weight"),
            Rule("blk.{i}.attn_q_b.weight", source + "q_b_proj.weight"),
        )
    return (
        *queries,
        Rule("blk.{i}.attn_kv_a_mqa.weight", source + "kv_a_proj_with_mqa.weight"),
        Rule("blk.{i}.attn_kv_a_norm.weight", source + "kv_a_layernorm.weight"),
        Rule(
            "blk.{i}.attn_k_b.weight",
            pair,
            rows=(0, sizes.key),
            period=both,
            turned=True,
        ),
        Rule(
            "blk.{i}.attn_v_b.weight",
            pair,
            rows=(sizes.key, both),
            period=both,
        ),
        Rule("blk.{i}.attn_output.weight", source + "o_proj.weight"),
    )
