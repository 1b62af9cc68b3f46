"""Gemma 3n (text): several copies of the hidden states, of which each block computes with one and
corrects all (AltUp), a low-rank layer beside attention (Laurel), feed-forwards that let few inputs
through, inputs of single layers made of the tokens, and keys and values that the last layers share.

Of a multimodal checkpoint the language model is taken; its settings lie in `text_config`. llama.cpp
has most sizes of its own as numbers in its code, and runs no others; of N inputs it divides the
deviation by N - 1 and not by N. Files of this family go one way: they are not written back as
directories.

Sources: llama.cpp's src/models/gemma3n.cpp and conversion/gemma.py, transformers'
modeling_gemma3n.py.
"""

from collections.abc import Mapping
from dataclasses import replace
from statistics import NormalDist
from typing import Any

from qconvert.checkpoint.metadata import Metadata, f32, f32s, flags, u32
from qconvert.errors import CheckpointError, UnsupportedError
from qconvert.model.families.gemma.gemma3 import ACTIVATIONS, SLIDING_THETA, THETA
from qconvert.model.families.gemma.gemma4 import INPUT_GATES, INPUTS, NORMED_FEED_FORWARD, TOWERS
from qconvert.model.families.parts.common import (
    block_count,
    decoder_metadata,
    expect,
    prefixed,
    real,
    whole,
)
from qconvert.model.families.parts.layers import FULL, SLIDING, kinds_of_layers
from qconvert.model.families.parts.lines import EMBEDDING, IGNORED, LAYER
from qconvert.model.types import Config, Family, Rule

NAME = "gemma3n"
OWN_KEYS = 20
"""Layers that have keys and values of their own, to llama.cpp."""

PERIOD = 5
"""Every layer of this number has full attention, to llama.cpp."""

SPARSE, SPARSITY = 10, 0.95
"""Feed-forwards that let few inputs through, and the share that they hold back, to llama.cpp."""

LEAST = -3.0e38
"""Stands for minus infinity: a bound that every input passes."""

SHAPES = {
    "per_layer_token_embd.weight": ("vocabulary", "all_inputs"),
    "per_layer_model_proj.weight": ("all_inputs", "hidden"),
    "per_layer_proj_norm.weight": ("layer_input",),
    "inp_gate.weight": ("layer_input", "hidden"),
    "proj.weight": ("hidden", "layer_input"),
    "post_norm.weight": ("hidden",),
    "altup_proj.weight": ("other_copies", "hidden", "hidden"),
    "altup_unembd_proj.weight": ("other_copies", "hidden", "hidden"),
    "altup_correct_coef.weight": ("copies", "copies"),
    "altup_correct_scale.weight": ("hidden",),
    "altup_predict_coef.weight": ("copies_squared", "copies"),
    "altup_router.weight": ("copies", "hidden"),
    "altup_router_norm.weight": ("hidden",),
    "laurel_l.weight": ("laurel_rank", "hidden"),
    "laurel_r.weight": ("hidden", "laurel_rank"),
    "laurel_post_norm.weight": ("hidden",),
}

DEFAULTS = {
    "vocab_size": 262_400,
    "vocab_size_per_layer_input": 262_144,
    "hidden_size": 2048,
    "intermediate_size": 16_384,
    "num_hidden_layers": 35,
    "num_attention_heads": 8,
    "num_key_value_heads": 2,
    "head_dim": 256,
    "max_position_embeddings": 32_768,
    "rms_norm_eps": 1e-6,
    "tie_word_embeddings": True,
    "sliding_window": 512,
    "final_logit_softcapping": 30.0,
    "hidden_size_per_layer_input": 256,
    "altup_active_idx": 0,
    "altup_correct_scale": True,
    "altup_num_inputs": 4,
    "num_kv_shared_layers": 15,
    "laurel_rank": 64,
}


def metadata(config: Config) -> Metadata:
    width = _width(config)
    keys: Metadata = {
        "attention.sliding_window": u32(whole(config, "sliding_window")),
        "attention.sliding_window_pattern": flags([kind == SLIDING for kind in _kinds(config)]),
        "attention.shared_kv_layers": u32(_shared(config)),
        "embedding_length_per_layer_input": u32(whole(config, "hidden_size_per_layer_input")),
        "altup.active_idx": u32(_whole_or_none(config, "altup_active_idx")),
        "altup.num_inputs": u32(whole(config, "altup_num_inputs")),
        "activation_sparsity_scale": f32s([_bound(share) for share in _sparsity(config)]),
        "final_logit_softcapping": f32(real(config, "final_logit_softcapping")),
        "rope.freq_base": f32(_theta(config, FULL)),
        "rope.freq_base_swa": f32(_theta(config, SLIDING)),
    }
    own = {**config, "intermediate_size": width}
    return {**decoder_metadata(NAME, own), **prefixed(NAME, keys)}


def _bound(share: float) -> float:
    """In deviations from the mean: what is below is held back."""
    return NormalDist().inv_cdf(share) if 0 < share < 1 else LEAST


def _whole_or_none(config: Config, name: str) -> int:
    return 0 if config.get(name, 0) == 0 else whole(config, name)


def _shared(config: Config) -> int:
    return _whole_or_none(config, "num_kv_shared_layers")


def _width(config: Config) -> int:
    """Of the feed-forward.

    Raises:
        CheckpointError: it is no number, nor one for each layer.
        UnsupportedError: it differs between layers.
    """
    given, count = config.get("intermediate_size"), block_count(config)
    if not isinstance(given, list):
        return whole(config, "intermediate_size")
    if len(given) != count:
        raise CheckpointError(f"config.json: intermediate_size is no list of {count} numbers")
    if any(width != given[0] for width in given):
        raise UnsupportedError(
            "config.json: intermediate_size differs between layers, and llama.cpp takes one for all"
        )
    return whole({"intermediate_size": given[0]}, "intermediate_size")


def _kinds(config: Config) -> list[str]:
    count = block_count(config)
    if config.get("layer_types") is None:
        return [FULL if (layer + 1) % PERIOD == 0 else SLIDING for layer in range(count)]
    return kinds_of_layers(config, "layer_types", (FULL, SLIDING), count)


def _sparsity(config: Config) -> list[float]:
    """For each layer the share of inputs that it holds back."""
    given, count = config.get("activation_sparsity_pattern"), block_count(config)
    if given is None:
        sparse = SPARSE if count > SPARSE else 0
        return [SPARSITY] * sparse + [0.0] * (count - sparse)
    if not isinstance(given, list) or len(given) != count:
        raise CheckpointError(
            f"config.json: activation_sparsity_pattern is no list of {count} numbers"
        )
    return [real({"share": share}, "share") for share in given]


def _rope(config: Config, kind: str) -> Mapping[str, Any]:
    """What turns layers of a kind; older configurations have it outside `rope_parameters`."""
    sets, scaling = config.get("rope_parameters", {}), config.get("rope_scaling")
    if not isinstance(sets, Mapping) or not isinstance(sets.get(kind) or {}, Mapping):
        raise CheckpointError("config.json: rope_parameters is no object of objects")
    base = config.get("rope_theta", THETA)
    if kind == SLIDING:
        base, scaling = config.get("rope_local_base_freq", SLIDING_THETA), None
    over = scaling if isinstance(scaling, Mapping) else {}
    stated = {**(sets.get(kind) or {}), **over}
    return {"rope_theta": base, **{key: v for key, v in stated.items() if v is not None}}


def _theta(config: Config, kind: str) -> float:
    return real(_rope(config, kind), "rope_theta")


def limits(config: Config) -> None:
    count, kinds, shared = block_count(config), _kinds(config), _shared(config)
    _width(config)
    expect(config, "hidden_activation", ACTIVATIONS)
    expect(config, "attention_bias", (False,))
    for name in ("altup_num_inputs", "altup_active_idx", "altup_correct_scale", "laurel_rank"):
        expect(config, name, (DEFAULTS[name],))
    expect(config, "hidden_size_per_layer_input", (DEFAULTS["hidden_size_per_layer_input"],))
    expect(config, "final_logit_softcapping", (DEFAULTS["final_logit_softcapping"],))
    for kind in (FULL, SLIDING):
        expect(_rope(config, kind), "rope_type", ("default",))
        expect(_rope(config, kind), "type", ("default",))
    if kinds != _kinds({**config, "layer_types": None}):
        raise UnsupportedError(
            f"config.json: llama.cpp runs this family with full attention in every {PERIOD}th layer"
        )
    if count - shared != min(count, OWN_KEYS):
        raise UnsupportedError(
            f"config.json: num_kv_shared_layers = {shared}, but to llama.cpp {OWN_KEYS} layers of "
            "this family have keys and values of their own"
        )
    sparse = [SPARSITY] * min(SPARSE, count) + [0.0] * max(count - SPARSE, 0)
    if _sparsity(config) != sparse:
        raise UnsupportedError(
            "config.json: activation_sparsity_pattern is another than llama.cpp has for this family"
        )
    if whole(config, "vocab_size_per_layer_input") > whole(config, "vocab_size"):
        raise UnsupportedError("config.json: more tokens have inputs for layers than there are")


def rules(config: Config) -> tuple[Rule, ...]:
    source, others = LAYER + "self_attn.", whole(config, "altup_num_inputs") - 1
    own = whole(config, "vocab_size_per_layer_input")
    beyond = max(whole(config, "vocab_size") - own, 0)
    table, *rest = INPUTS
    # Tokens that have no row take the first, as transformers has it.
    padded = ((0, own), *((0, 1),) * beyond) if beyond else ()
    return (
        *EMBEDDING,
        Rule("altup_proj.weight", "model.altup_projections.{e}.weight", copies=others),
        Rule(
            "altup_unembd_proj.weight", "model.altup_unembed_projections.{e}.weight", copies=others
        ),
        Rule(table.gguf, table.hf, runs=padded),
        *rest,
        Rule("blk.{i}.attn_norm.weight", LAYER + "input_layernorm.weight"),
        Rule("blk.{i}.attn_q.weight", source + "q_proj.weight"),
        *_own_or_blank(config, Rule("blk.{i}.attn_k.weight", source + "k_proj.weight")),
        *_own_or_blank(config, Rule("blk.{i}.attn_v.weight", source + "v_proj.weight")),
        Rule("blk.{i}.attn_output.weight", source + "o_proj.weight"),
        Rule("blk.{i}.attn_q_norm.weight", source + "q_norm.weight"),
        *_own_or_blank(config, Rule("blk.{i}.attn_k_norm.weight", source + "k_norm.weight")),
        *NORMED_FEED_FORWARD,
        *INPUT_GATES,
        Rule("blk.{i}.altup_correct_coef.weight", LAYER + "altup.correction_coefs.weight"),
        Rule("blk.{i}.altup_correct_scale.weight", LAYER + "altup.correct_output_scale"),
        Rule("blk.{i}.altup_predict_coef.weight", LAYER + "altup.prediction_coefs.weight"),
        Rule("blk.{i}.altup_router.weight", LAYER + "altup.modality_router.weight"),
        Rule("blk.{i}.altup_router_norm.weight", LAYER + "altup.router_norm.weight"),
        Rule("blk.{i}.laurel_l.weight", LAYER + "laurel.linear_left.weight"),
        Rule("blk.{i}.laurel_r.weight", LAYER + "laurel.linear_right.weight"),
        Rule("blk.{i}.laurel_post_norm.weight", LAYER + "laurel.post_laurel_norm.weight"),
        Rule("output_norm.weight", "model.norm.weight"),
        Rule("output.weight", "lm_head.weight", optional=True),
    )


def _own_or_blank(config: Config, rule: Rule) -> tuple[Rule, Rule]:
    """Keys and values of all layers, which llama.cpp reads, and does not use in the last."""
    count = block_count(config)
    own, others = range(count - _shared(config)), range(count - _shared(config), count)
    return replace(rule, blocks=tuple(own)), replace(rule, blocks=tuple(others), blank=True)


GEMMA3N = Family(
    name=NAME,
    classes=("Gemma3nForCausalLM", "Gemma3nForConditionalGeneration"),
    metadata=metadata,
    rules=rules,
    defaults=DEFAULTS,
    limits=limits,
    ignored=(*IGNORED, TOWERS),
    shapes=SHAPES,
)
