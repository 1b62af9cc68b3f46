"""The vision towers of Qwen2-VL and Qwen2.5-VL: no learned positions, rotary pairs that turn by
height and width, a merger of 2 x 2 patches. That of Qwen2.5 has RMS norms, a gated feed-forward
part, and attends within windows in most blocks.

Source: llama.cpp's tools/mtmd/models/qwen2vl.cpp, transformers' modeling_qwen2_5_vl.py and
modeling_qwen2_vl.py.
"""

from collections.abc import Iterator
from itertools import chain
from typing import Any

from qconvert.checkpoint.metadata import Metadata, u32
from qconvert.errors import UnsupportedError
from qconvert.model.families.parts.common import expect, real, whole
from qconvert.model.types import Config
from qconvert.model.vision.qwen3_vl import EPSILON, MERGED, frames, limits
from qconvert.model.vision.tower import (
    Tower,
    fraction,
    linear,
    norm,
    read_tower,
    tower_keys,
    vision_config,
)
from qconvert.model.vision.types import Extras, Line, Projector

NAME_OF_2, NAME_OF_2_5 = "qwen2vl_merger", "qwen2.5vl_merger"
IMAGE = 560
"""Pixels of a side, which llama.cpp wants to be told and does not use: images keep their shape."""
WINDOW = 112
"""Pixels of a window's side that llama.cpp has."""

DEFAULTS_OF_2: dict[str, Any] = {
    "depth": 32,
    "embed_dim": 1280,
    "mlp_ratio": 4,
    "num_heads": 16,
    "patch_size": 14,
    "hidden_act": "quick_gelu",
}
DEFAULTS_OF_2_5: dict[str, Any] = {
    "depth": 32,
    "hidden_size": 3584,
    "hidden_act": "silu",
    "intermediate_size": 3420,
    "num_heads": 16,
    "patch_size": 14,
    "fullatt_block_indexes": [7, 15, 23, 31],
}

NAMES_OF_2 = {"blocks": "depth", "heads": "num_heads", "hidden": "embed_dim"}
NAMES_OF_2_5 = {"blocks": "depth", "heads": "num_heads"}


def _tower_of_2(config: Config) -> Tower:
    settings = vision_config(config, DEFAULTS_OF_2)
    # `hidden_size` is the language model's width here.
    width = int(whole(settings, "embed_dim") * real(settings, "mlp_ratio"))
    settings["intermediate_size"] = width
    return read_tower(config, settings, NAMES_OF_2, image=IMAGE, epsilon=EPSILON)


def _tower_of_2_5(config: Config) -> Tower:
    settings = vision_config(config, DEFAULTS_OF_2_5)
    return read_tower(config, settings, NAMES_OF_2_5, image=IMAGE, epsilon=EPSILON)


def metadata_of_2(config: Config, extras: Extras) -> Metadata:
    keys = tower_keys(_tower_of_2(config), extras, NAME_OF_2)
    return {**keys, "clip.vision.spatial_merge_size": u32(MERGED)}


def metadata_of_2_5(config: Config, extras: Extras) -> Metadata:
    return {
        **tower_keys(_tower_of_2_5(config), extras, NAME_OF_2_5),
        "clip.vision.spatial_merge_size": u32(MERGED),
        "clip.vision.n_wa_pattern": u32(_period(config)),
    }


def _period(config: Config) -> int:
    """Each so many-th block attends to the whole image."""
    settings = vision_config(config, DEFAULTS_OF_2_5)
    blocks = whole(settings, "depth")
    found = settings["fullatt_block_indexes"]
    period = found[0] + 1 if isinstance(found, list) and found and type(found[0]) is int else 0
    if period < 1 or found != list(range(period - 1, blocks, period)):
        raise UnsupportedError(
            f"config.json: fullatt_block_indexes = {found!r:.60} cannot be expressed in GGUF",
            "llama.cpp has each n-th of all blocks attend to the whole image",
        )
    return period


def limits_of_2_5(config: Config) -> None:
    limits(config)
    expect(vision_config(config, DEFAULTS_OF_2_5), "window_size", (WINDOW,))


def lines_of_2(config: Config, extras: Extras) -> tuple[Line, ...]:
    return _lines(_tower_of_2(config), gated=False)


def lines_of_2_5(config: Config, extras: Extras) -> tuple[Line, ...]:
    return _lines(_tower_of_2_5(config), gated=True)


def _lines(tower: Tower, *, gated: bool) -> tuple[Line, ...]:
    """Where the feed-forward part is gated, norms have no bias."""
    merged = MERGED**2 * tower.hidden
    return (
        *frames(tower),
        *chain.from_iterable(_block(tower, i, gated=gated) for i in range(tower.blocks)),
        *norm("v.post_ln", "visual.merger.ln_q", tower.hidden, bias=not gated),
        *linear("mm.0", "visual.merger.mlp.0", merged, merged),
        *linear("mm.2", "visual.merger.mlp.2", tower.text, merged),
    )


def _block(tower: Tower, block: int, *, gated: bool) -> Iterator[Line]:
    gguf, hf = f"v.blk.{block}.", f"visual.blocks.{block}."
    width = tower.hidden
    yield from norm(gguf + "ln1", hf + "norm1", width, bias=not gated)
    for part, name in enumerate(("attn_q", "attn_k", "attn_v")):
        yield from fraction(linear(gguf + name, hf + "attn.qkv", width, width), part, 3)
    yield from linear(gguf + "attn_out", hf + "attn.proj", width, width)
    yield from norm(gguf + "ln2", hf + "norm2", width, bias=not gated)
    if gated:
        yield from linear(gguf + "ffn_gate", hf + "mlp.gate_proj", tower.ffn, width)
    yield from linear(
        gguf + "ffn_up", hf + ("mlp.up_proj" if gated else "mlp.fc1"), tower.ffn, width
    )
    yield from linear(
        gguf + "ffn_down", hf + ("mlp.down_proj" if gated else "mlp.fc2"), width, tower.ffn
    )


QWEN2_VL = Projector(
    NAME_OF_2,
    ("Qwen2VLForConditionalGeneration",),
    metadata_of_2,
    lines_of_2,
    own=r"visual\.",
    limits=limits,
)

QWEN2_5_VL = Projector(
    NAME_OF_2_5,
    ("Qwen2_5_VLForConditionalGeneration",),
    metadata_of_2_5,
    lines_of_2_5,
    own=r"visual\.",
    limits=limits_of_2_5,
)
