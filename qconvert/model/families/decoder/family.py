"""All that a family is, derived from the description of a plain decoder."""

from functools import partial

import numpy as np

from qconvert.model.families.decoder.metadata import decoder_keys, decoder_limits
from qconvert.model.families.decoder.rules import decoder_rules
from qconvert.model.families.decoder.settings import decoder_settings
from qconvert.model.families.decoder.types import Decoder
from qconvert.model.families.parts.rope import llama3_factors
from qconvert.model.folding import (
    ATTENTION,
    DOWN,
    DOWN_OF_EXPERTS,
    DOWN_OF_FUSED,
    DOWN_OF_SHARED,
    EXPERTS,
    FUSED_ATTENTION,
    SHARED,
    Fold,
)
from qconvert.model.types import Config, Family


def family_of(decoder: Decoder) -> Family:
    """The family. What a description cannot say is put in its place with `dataclasses.replace`."""
    return Family(
        name=decoder.name,
        classes=decoder.classes,
        metadata=partial(decoder_keys, decoder),
        rules=partial(decoder_rules, decoder),
        defaults=decoder.defaults,
        aliases=decoder.aliases,
        limits=partial(decoder_limits, decoder),
        ignored=decoder.ignored,
        config=partial(decoder_settings, decoder),
        shapes=_shapes(decoder),
        folds=_folds(decoder),
        experts=decoder.experts is not None,
        mark=decoder.mark,
        output_is_embedding=decoder.output_is_embedding,
        pooled=decoder.pooled,
        window_by_choice=decoder.window_by_choice,
        constants=llama3_factors if "llama3" in decoder.rope.kinds else no_tensors,
    )


def no_tensors(config: Config) -> dict[str, np.ndarray]:
    return {}


def _shapes(decoder: Decoder) -> dict[str, tuple[str, ...]]:
    """Those that differ from the usual ones."""
    shapes: dict[str, tuple[str, ...]] = {}
    if decoder.attention.qk_norms == "all":
        shapes |= {"attn_q_norm.weight": ("query",), "attn_k_norm.weight": ("key",)}
    if decoder.attention.qk_norms == "each":
        shapes |= {"attn_q_norm.weight": ("heads", "head")}
        shapes |= {"attn_k_norm.weight": ("kv_heads", "head")}
    if decoder.feed_forward and decoder.feed_forward.fused:
        shapes["ffn_up.weight"] = ("gate_up", "hidden")
    shared = decoder.experts and decoder.experts.shared
    if shared and shared.key == "expert_shared_count":
        shapes |= {f"ffn_{part}_shexp.weight": ("always_ffn", "hidden") for part in ("gate", "up")}
        shapes["ffn_down_shexp.weight"] = ("hidden", "always_ffn")
    return shapes


def _folds(decoder: Decoder) -> tuple[Fold, ...]:
    """The inputs that can be divided by channel: what a norm makes, and what "up" makes."""
    norms, experts = decoder.norms, decoder.experts
    readers = FUSED_ATTENTION.weights if decoder.attention.fused else ATTENTION.weights
    parts: list[tuple[tuple[str, ...], tuple[str, ...]]] = []  # weights and routers of the norm
    made: list[Fold] = []
    if experts:
        shared = experts.shared
        own = (*EXPERTS.weights, *(SHARED if shared else ()))
        gates = ("ffn_gate_inp_shexp",) if shared and shared.gate else ()
        parts.append((own, (*EXPERTS.routers, *gates)))
        made += [DOWN_OF_EXPERTS, *([DOWN_OF_SHARED] if shared else [])]
    if decoder.feed_forward:
        (*first, _) = decoder.feed_forward.names
        parts.append((tuple(name for name, _ in first), ()))
        if decoder.feed_forward.gated:
            made.append(DOWN_OF_FUSED if decoder.feed_forward.fused else DOWN)
    outer = [Fold(norms.of_attention, readers)] if norms.of_attention else []
    if norms.of_attention and norms.of_attention == norms.of_feed_forward:
        outer, parts = [], [((*readers, *own), routers) for own, routers in parts]
    if norms.of_feed_forward:
        outer += [Fold(norms.of_feed_forward, own, routers) for own, routers in parts]
    return (*outer, *made)
