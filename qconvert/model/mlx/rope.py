"""Rotary position embeddings as mlx-lm reads them: `rope_theta` and `rope_scaling`."""

from collections.abc import Mapping
from typing import Any

from qconvert.errors import UnsupportedError
from qconvert.model.families.parts.common import real, whole
from qconvert.model.families.parts.rope import PLAIN, rope_parameters, sliding_rope
from qconvert.model.types import Config

LONG = ("longrope", "su")
"""Names of LongRoPE."""

EVERYWHERE = ("linear", "yarn")
"""Kinds of stretching that all of mlx-lm's families have that have any."""

BESIDE = ("rope_theta", "partial_rotary_factor", "attention_factor")
"""What is no part of `rope_scaling` there."""


def rope_settings(
    config: Config, *more: str, stretched: bool = True, partly: bool = False
) -> dict[str, Any]:
    """`rope_theta` and `rope_scaling`, which is null where nothing is stretched.

    Args:
        more: kinds of stretching that the family has besides.
        stretched: whether it has the usual ones.
        partly: whether it turns a part of each head where that is said.

    Raises:
        UnsupportedError: a kind, or a setting of it, that mlx-lm does not heed.
    """
    rope = rope_parameters(config)
    kind = rope["rope_type"]
    known = (*PLAIN, *more, *(EVERYWHERE if stretched else ()))
    if kind not in known:
        raise _unsupported(kind)
    if sliding_rope(config).get("rope_type", "default") != "default":
        raise _unsupported("stretching in layers with a sliding window")
    if not partly and real(rope, "partial_rotary_factor") != 1.0:
        raise _unsupported("rotation of a part of each head")
    theta = {"rope_theta": real(rope, "rope_theta")}
    # "dynamic" turns as usual within the trained context.
    if kind in PLAIN:
        return {**theta, "rope_scaling": None}
    if kind == "yarn":
        rope = _yarn(rope, config)
    scaling = {key: value for key, value in rope.items() if key not in BESIDE}
    if "factor" in scaling:
        scaling["factor"] = real(scaling, "factor")
    return {**theta, "rope_scaling": {**scaling, "type": kind, "rope_type": kind}}


def _yarn(rope: Mapping[str, Any], config: Config) -> dict[str, Any]:
    """With the context before it was stretched, of which mlx-lm has an idea of its own."""
    if rope.get("attention_factor") is not None:
        raise _unsupported("yarn with an attention_factor")
    longest = whole(config, "max_position_embeddings")
    original = whole(rope, "original_max_position_embeddings", default=longest)
    return {**rope, "original_max_position_embeddings": original}


def _unsupported(what: str) -> UnsupportedError:
    return UnsupportedError(
        f"config.json: mlx-lm cannot run this family with rotary scaling: {what:.80}",
        "remove the scaling from config.json to convert the model for its trained context",
    )
