"""Rotary position embeddings: how far they turn, and how they are stretched for long contexts.

`config.json` says it in `rope_parameters` (transformers 5; perhaps one set per kind of layer) or
in `rope_theta` and `rope_scaling` (before); where both stand, the older counts. GGUF says it in
`{arch}.rope.*`, and in tensors of factors where every frequency has its own: Llama 3 (arXiv
2407.21783) and LongRoPE (2402.13753). YaRN: arXiv 2309.00071.
"""

import math
from collections.abc import Collection, Mapping
from typing import Any

import numpy as np

from qconvert.checkpoint.metadata import Metadata, f32, text, u32
from qconvert.errors import CheckpointError, UnsupportedError
from qconvert.model.families.parts.common import head_size, prefixed, real, whole
from qconvert.model.types import Config

PLAIN = ("default", "dynamic")
"""Kinds that turn by the plain frequencies within the trained context; `dynamic` changes them only
beyond it."""

ROPE_TYPES = (*PLAIN, "linear", "yarn")
"""Kinds that GGUF's keys can say for every family."""

OLDER_KEYS = ("rope_theta", "rope_scaling", "rope_local_base_freq", "partial_rotary_factor")
"""Settings beside `rope_parameters`, which newer families do not read."""


def without_older(config: Config) -> Config:
    """The settings without those that newer families do not read."""
    return {key: value for key, value in config.items() if key not in OLDER_KEYS}


def rope_parameters(config: Config) -> dict[str, Any]:
    """The settings for layers with full attention, always with `rope_type` and
    `partial_rotary_factor`."""
    given, scaling = (
        _mapping(config.get(key) or {}) for key in ("rope_parameters", "rope_scaling")
    )
    if "full_attention" in given or "sliding_attention" in given:
        given = {**_mapping(given.get("full_attention") or {}), **scaling}
    elif scaling:  # the older key counts where both are there: so it is in transformers
        given = scaling
    stated = {key: value for key, value in given.items() if value is not None}
    kind = stated.get("rope_type", stated.get("type", "default"))
    rest = {
        key: config[key]
        for key in ("rope_theta", "partial_rotary_factor", "original_max_position_embeddings")
        if config.get(key) is not None
    }
    return {"partial_rotary_factor": 1.0, **rest, **stated, "rope_type": str(kind).lower()}


def sliding_rope(config: Config) -> Mapping[str, Any]:
    """The settings for layers with a sliding window."""
    both = _mapping(config.get("rope_parameters") or {})
    return {
        "rope_theta": config.get("rope_local_base_freq"),
        **_mapping(both.get("sliding_attention") or {}),
    }


def rope_sections(config: Config, usual: list[int]) -> list[int]:
    """Pairs of a head that turn by time, height and width.

    Args:
        usual: where the settings do not say it.

    Raises:
        CheckpointError: they say something else.
    """
    sections = rope_parameters(config).get("mrope_section", usual)
    three = isinstance(sections, list) and len(sections) == 3
    if not three or not all(type(one) is int and 0 <= one < 1 << 16 for one in sections):
        raise CheckpointError(f"config.json: mrope_section is {sections!r:.60}, not three numbers")
    return list(sections)


def check_rope(
    config: Config,
    known: Collection[str] = ROPE_TYPES,
    partly: bool = False,
    untruncated: bool = False,
) -> None:
    """Refuse what llama.cpp would run in another way.

    Args:
        known: the kinds of stretching that the family can express.
        partly: whether it can say that only a part of each head turns.
        untruncated: whether its models have YaRN without truncation, although llama.cpp truncates:
            a caveat says so.

    Raises:
        UnsupportedError: another kind, or one with settings that llama.cpp ignores.
    """
    rope = rope_parameters(config)
    kind = rope["rope_type"]
    if kind not in known:
        raise _unsupported(kind)
    if kind == "yarn":
        for key, value in {"beta_fast": 32, "beta_slow": 1, "truncate": True}.items():
            if rope.get(key, value) != value and not (untruncated and key == "truncate"):
                raise _unsupported(f"yarn with {key} = {rope[key]!r:.40}")
    if not partly and real(rope, "partial_rotary_factor") != 1.0:
        raise _unsupported("rotation of a part of each head (partial_rotary_factor)")
    window = sliding_rope(config).get("rope_type", "default")
    if window != "default":
        raise _unsupported(f"{window} for layers with a sliding window")


def rope_metadata(name: str, config: Config) -> Metadata:
    """`{name}.rope.*`: the base, and the stretching as far as keys say it.

    Args:
        name: `general.architecture`.
    """
    rope = rope_parameters(config)
    kind = rope["rope_type"]
    keys = {"rope.freq_base": f32(real(rope, "rope_theta"))}
    if kind == "linear":
        keys["rope.scaling.type"] = text("linear")
        keys["rope.scaling.factor"] = f32(_factor(rope))
    if kind == "yarn":
        keys |= _yarn(rope, config)
    return prefixed(name, keys)


def _yarn(rope: Mapping[str, Any], config: Config) -> Metadata:
    factor = _factor(rope)
    original = whole(
        rope, "original_max_position_embeddings", default=whole(config, "max_position_embeddings")
    )
    keys = {
        "rope.scaling.type": text("yarn"),
        "rope.scaling.factor": f32(factor),
        "rope.scaling.original_context_length": u32(original),
    }
    # llama.cpp scales by 0.1 ln(factor) + 1 on its own, and by attn_factor besides.
    usual = _magnitude(factor, 1.0)
    wanted = _yarn_magnitude(rope, factor)
    if not math.isclose(wanted, usual, rel_tol=1e-6):
        keys["rope.scaling.attn_factor"] = f32(wanted / usual)
    return keys


def _yarn_magnitude(rope: Mapping[str, Any], factor: float) -> float:
    if rope.get("attention_factor") is not None:
        return real(rope, "attention_factor")
    if rope.get("mscale") and rope.get("mscale_all_dim"):
        return _magnitude(factor, real(rope, "mscale")) / _magnitude(
            factor, real(rope, "mscale_all_dim")
        )
    return _magnitude(factor, 1.0)


def _magnitude(factor: float, scale: float) -> float:
    return 1.0 if factor <= 1.0 else 0.1 * scale * math.log(factor) + 1.0


def llama3_factors(config: Config) -> dict[str, np.ndarray]:
    """`rope_freqs.weight`, float32 [head size / 2]: what Llama 3 divides each frequency by.

    Waves that fit the original context often are kept, long ones are stretched by the factor, and
    those between are mixed.
    """
    rope = rope_parameters(config)
    if rope["rope_type"] != "llama3":
        return {}
    size = head_size(config)
    factor = _factor(rope)
    low = real(rope, "low_freq_factor", default=1.0)
    high = real(rope, "high_freq_factor", default=4.0)
    original = whole(rope, "original_max_position_embeddings", default=8192)
    if high <= low or low <= 0:
        raise CheckpointError("config.json: rope's high_freq_factor must exceed low_freq_factor")
    base = real(rope, "rope_theta")
    wave = 2 * math.pi * base ** (np.arange(0, size, 2, dtype=np.float64) / size)
    smooth = np.clip((original / wave - low) / (high - low), 0.0, 1.0)
    factors = 1.0 / ((1.0 - smooth) / factor + smooth)
    return {"rope_freqs.weight": factors.astype(np.float32)}


def _factor(rope: Mapping[str, Any]) -> float:
    factor = real(rope, "factor")
    if factor <= 0:
        raise CheckpointError(f"config.json: rope's factor is {factor}, not above zero")
    return factor


def _mapping(value: Any) -> Mapping[str, Any]:
    if not isinstance(value, Mapping):
        raise CheckpointError("config.json: the rope settings are no object")
    return value


def _unsupported(what: str) -> UnsupportedError:
    return UnsupportedError(
        f"config.json: llama.cpp cannot run this family with rotary scaling: {what:.80}",
        hint="remove the scaling from config.json to convert the model for its trained context",
    )
