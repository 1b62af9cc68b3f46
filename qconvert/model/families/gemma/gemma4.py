"""Gemma 4 (text): heads of other sizes where attention is full, keys and values that the last
layers share, inputs of single layers made of the tokens, a factor for each layer, and, in some,
experts beside the feed-forward.

Of a multimodal checkpoint the language model is taken; its settings lie in `text_config`. What
differs where attention is full stands in `global_head_dim` and `num_global_key_value_heads`, or,
as transformers writes it, in `per_layer_config`. Files of this family go one way: they are not
written back as directories.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from qconvert.checkpoint.metadata import Metadata, f32, flags, i32s, u32
from qconvert.errors import CheckpointError, UnsupportedError
from qconvert.model.families.gemma.gemma3 import ACTIVATIONS
from qconvert.model.families.parts.common import (
    block_count,
    decoder_metadata,
    expect,
    head_size,
    kv_head_count,
    prefixed,
    real,
    whole,
)
from qconvert.model.families.parts.lines import EMBEDDING, FEED_FORWARD, IGNORED, LAYER
from qconvert.model.types import Config, Family, Rule

NAME = "gemma4"
KINDS = FULL, SLIDING = ("full_attention", "sliding_attention")
NEVER = 1e30
"""What the frequency of pairs that do not turn is divided by."""

SHAPES = {
    "per_layer_token_embd.weight": ("vocabulary", "all_inputs"),
    "per_layer_model_proj.weight": ("all_inputs", "hidden"),
    "per_layer_proj_norm.weight": ("layer_input",),
    "inp_gate.weight": ("layer_input", "hidden"),
    "proj.weight": ("hidden", "layer_input"),
    "post_norm.weight": ("hidden",),
    "layer_output_scale.weight": ("one",),
    "ffn_gate_inp.scale": ("hidden",),
    "ffn_gate_up_exps.weight": ("experts", "expert_gate_up", "hidden"),
    "ffn_down_exps.scale": ("experts",),
    "pre_ffw_norm_2.weight": ("hidden",),
    "post_ffw_norm_1.weight": ("hidden",),
    "post_ffw_norm_2.weight": ("hidden",),
}

DEFAULTS = {
    "vocab_size": 262_144,
    "vocab_size_per_layer_input": 262_144,
    "hidden_size": 2304,
    "intermediate_size": 9216,
    "num_hidden_layers": 30,
    "num_attention_heads": 8,
    "num_key_value_heads": 4,
    "head_dim": 256,
    "max_position_embeddings": 131_072,
    "rms_norm_eps": 1e-6,
    "tie_word_embeddings": True,
    "sliding_window": 512,
    "hidden_size_per_layer_input": 256,
    "num_kv_shared_layers": 0,
    "attention_k_eq_v": False,
    "enable_moe_block": False,
    "use_double_wide_mlp": False,
    "rope_parameters": {
        SLIDING: {"rope_type": "default", "rope_theta": 10_000.0},
        FULL: {"rope_type": "proportional", "partial_rotary_factor": 0.25, "rope_theta": 1e6},
    },
}


@dataclass(frozen=True)
class Heads:
    """Of layers with full attention: elements of a head, and heads of keys and values."""

    size: int
    keys: int


def heads_of_full(config: Config) -> Heads:
    """
    Raises:
        CheckpointError: the settings of layers are none.
        UnsupportedError: they differ between layers of one kind.
    """
    kinds, given = _kinds(config), config.get("per_layer_config")
    if given is None:
        keys = kv_head_count(config)
        if config.get("attention_k_eq_v"):
            keys = whole(config, "num_global_key_value_heads", default=keys)
        return Heads(whole(config, "global_head_dim", default=512), keys)
    if not isinstance(given, Mapping) or not all(isinstance(v, Mapping) for v in given.values()):
        raise CheckpointError("config.json: per_layer_config is no object of objects")
    found = set()
    for layer, kind in enumerate(kinds):
        own = {**config, **given.get(str(layer), given.get(layer, {}))}
        heads = Heads(head_size(own), kv_head_count(own))
        if kind == FULL:
            found.add(heads)
        elif heads != Heads(head_size(config), kv_head_count(config)):
            raise UnsupportedError(f"config.json: layer {layer} differs from others with a window")
    if len(found) > 1:
        raise UnsupportedError("config.json: layers with full attention differ from each other")
    return found.pop() if found else Heads(head_size(config), kv_head_count(config))


def metadata(config: Config) -> Metadata:
    kinds, full, count = _kinds(config), heads_of_full(config), block_count(config)
    shared = _whole_or_none(config, "num_kv_shared_layers")
    width = whole(config, "intermediate_size")
    size, keys_of = head_size(config), {FULL: full.keys, SLIDING: kv_head_count(config)}
    keys: Metadata = {
        "attention.shared_kv_layers": u32(shared),
        "attention.sliding_window": u32(whole(config, "sliding_window")),
        "attention.sliding_window_pattern": flags([kind == SLIDING for kind in kinds]),
        "attention.key_length": u32(full.size),
        "attention.value_length": u32(full.size),
        "attention.key_length_swa": u32(size),
        "attention.value_length_swa": u32(size),
        "attention.head_count_kv": i32s([keys_of[kind] for kind in kinds]),
        "embedding_length_per_layer_input": u32(
            _whole_or_none(config, "hidden_size_per_layer_input")
        ),
        "rope.dimension_count": u32(full.size),
        "rope.dimension_count_swa": u32(size),
        "rope.freq_base": f32(real(_rope(config, FULL), "rope_theta")),
        "rope.freq_base_swa": f32(real(_rope(config, SLIDING), "rope_theta")),
    }
    if config.get("use_double_wide_mlp"):
        keys["feed_forward_length"] = i32s([width] * (count - shared) + [2 * width] * shared)
    if "final_logit_softcapping" in config:
        keys["final_logit_softcapping"] = f32(real(config, "final_logit_softcapping"))
    if config.get("enable_moe_block"):
        keys["expert_count"] = u32(whole(config, "num_experts"))
        keys["expert_used_count"] = u32(whole(config, "top_k_experts"))
        keys["expert_feed_forward_length"] = u32(whole(config, "moe_intermediate_size"))
    return {**decoder_metadata(NAME, config), **prefixed(NAME, keys)}


def _whole_or_none(config: Config, name: str) -> int:
    """A setting that may be zero, or left out."""
    return 0 if config.get(name, 0) == 0 else whole(config, name)


def _kinds(config: Config) -> list[str]:
    """Of all layers; the last one has full attention, whatever is said."""
    count, kinds = block_count(config), config.get("layer_types")
    if kinds is None:
        kinds = [FULL if (layer + 1) % 6 == 0 else SLIDING for layer in range(count)]
    if not isinstance(kinds, list) or len(kinds) != count:
        raise CheckpointError(f"config.json: layer_types is no list of {count} names")
    if any(kind not in KINDS for kind in kinds):
        raise UnsupportedError(f"config.json: layer_types knows {' and '.join(KINDS)} only")
    return [*kinds[:-1], FULL]


def _rope(config: Config, kind: str) -> Mapping[str, Any]:
    sets = config.get("rope_parameters", DEFAULTS["rope_parameters"])
    if not isinstance(sets, Mapping) or not isinstance(sets.get(kind), Mapping):
        raise CheckpointError(f"config.json: rope_parameters has none for {kind}")
    found: Mapping[str, Any] = sets[kind]
    return found


def limits(config: Config) -> None:
    full, kinds = _rope(config, FULL), _kinds(config)
    heads_of_full(config)
    expect(config, "hidden_activation", ACTIVATIONS)
    expect(config, "attention_bias", (False,))
    expect(config, "rope_scaling", (), "this family has rope_parameters alone")
    expect(config, "use_bidirectional_attention", ("vision",), "llama.cpp looks back alone")
    expect(_rope(config, SLIDING), "rope_type", ("default",))
    expect(full, "rope_type", ("proportional",))
    expect(full, "factor", (1.0,))
    if _whole_or_none(config, "hidden_size_per_layer_input"):
        expect(config, "vocab_size_per_layer_input", (whole(config, "vocab_size"),))
    first = len(kinds) - _whole_or_none(config, "num_kv_shared_layers")
    if not set(kinds) <= set(kinds[: max(first, 0)]):
        raise UnsupportedError("config.json: no layer makes the keys that the last ones share")


def turning(config: Config) -> dict[str, np.ndarray]:
    """`rope_freqs.weight`, float32 [head size / 2], of full attention: the first pairs turn."""
    size = heads_of_full(config).size
    part = real(_rope(config, FULL), "partial_rotary_factor", default=1.0)
    pairs = np.arange(size // 2) < int(part * size // 2)
    return {"rope_freqs.weight": np.where(pairs, 1.0, NEVER).astype(np.float32)}


def rules(config: Config) -> tuple[Rule, ...]:
    kinds = _kinds(config)
    own = len(kinds) - _whole_or_none(config, "num_kv_shared_layers")
    values = tuple(
        i for i in range(own) if kinds[i] == SLIDING or not config.get("attention_k_eq_v")
    )
    source = LAYER + "self_attn."
    keys = (
        Rule("blk.{i}.attn_k.weight", source + "k_proj.weight"),
        Rule("blk.{i}.attn_k_norm.weight", source + "k_norm.weight"),
    )
    per_layer = _whole_or_none(config, "hidden_size_per_layer_input")
    return (
        *EMBEDDING,
        *(INPUTS if per_layer else ()),
        Rule("blk.{i}.attn_norm.weight", LAYER + "input_layernorm.weight"),
        Rule("blk.{i}.attn_q.weight", source + "q_proj.weight"),
        *(replace(rule, blocks=tuple(range(own))) for rule in keys),
        Rule("blk.{i}.attn_v.weight", source + "v_proj.weight", blocks=values),
        Rule("blk.{i}.attn_output.weight", source + "o_proj.weight"),
        Rule("blk.{i}.attn_q_norm.weight", source + "q_norm.weight"),
        *NORMED_FEED_FORWARD,
        *(_EXPERTS if config.get("enable_moe_block") else ()),
        *(INPUT_GATES if per_layer else ()),
        Rule("blk.{i}.layer_output_scale.weight", LAYER + "layer_scalar"),
        Rule("output_norm.weight", "model.norm.weight"),
        Rule("output.weight", "lm_head.weight", optional=True),
    )


INPUTS = (
    Rule("per_layer_token_embd.weight", "model.embed_tokens_per_layer.weight"),
    Rule("per_layer_model_proj.weight", "model.per_layer_model_projection.weight"),
    Rule("per_layer_proj_norm.weight", "model.per_layer_projection_norm.weight"),
)

NORMED_FEED_FORWARD = (
    Rule("blk.{i}.post_attention_norm.weight", LAYER + "post_attention_layernorm.weight"),
    Rule("blk.{i}.ffn_norm.weight", LAYER + "pre_feedforward_layernorm.weight"),
    *FEED_FORWARD,
    Rule("blk.{i}.post_ffw_norm.weight", LAYER + "post_feedforward_layernorm.weight"),
)
"""The feed-forward part, and the norms in front of it and behind it."""

TOWERS = r"(model\.)?((vision|audio)_tower|embed_(vision|audio))\..*"
"""What sees and hears."""

INPUT_GATES = (
    Rule("blk.{i}.inp_gate.weight", LAYER + "per_layer_input_gate.weight"),
    Rule("blk.{i}.proj.weight", LAYER + "per_layer_projection.weight"),
    Rule("blk.{i}.post_norm.weight", LAYER + "post_per_layer_input_norm.weight"),
)

_EXPERTS = (
    Rule("blk.{i}.ffn_gate_inp.weight", LAYER + "router.proj.weight"),
    Rule("blk.{i}.ffn_gate_inp.scale", LAYER + "router.scale"),
    Rule("blk.{i}.ffn_gate_up_exps.weight", LAYER + "experts.gate_up_proj"),
    Rule("blk.{i}.ffn_down_exps.weight", LAYER + "experts.down_proj"),
    Rule("blk.{i}.ffn_down_exps.scale", LAYER + "router.per_expert_scale"),
    Rule("blk.{i}.pre_ffw_norm_2.weight", LAYER + "pre_feedforward_layernorm_2.weight"),
    Rule("blk.{i}.post_ffw_norm_1.weight", LAYER + "post_feedforward_layernorm_1.weight"),
    Rule("blk.{i}.post_ffw_norm_2.weight", LAYER + "post_feedforward_layernorm_2.weight"),
)


def unused(config: Config) -> tuple[str, ...]:
    """Keys and values of layers that take those of others."""
    count = block_count(config)
    numbers = range(count - _whole_or_none(config, "num_kv_shared_layers"), count)
    return tuple(rf"(.*\.)?layers\.{i}\.self_attn\.[kv]_(proj|norm)\.weight" for i in numbers)


GEMMA4 = Family(
    name=NAME,
    classes=("Gemma4ForCausalLM", "Gemma4ForConditionalGeneration"),
    metadata=metadata,
    rules=rules,
    defaults=DEFAULTS,
    limits=limits,
    constants=turning,
    ignored=(*IGNORED, TOWERS),
    dropped=unused,
    shapes=SHAPES,
    experts=True,
)

GEMMA4_UNIFIED = replace(
    GEMMA4,
    classes=("Gemma4UnifiedForConditionalGeneration", "Gemma4UnifiedForCausalLM"),
    defaults={
        **DEFAULTS,
        "max_position_embeddings": 262_144,
        "sliding_window": 1024,
        "hidden_size_per_layer_input": 0,
    },
    ignored=(*GEMMA4.ignored, r"(model\.)?vision_embedder\..*"),
)
"""Images and sounds come to it without towers of their own."""
