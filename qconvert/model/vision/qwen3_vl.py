"""The vision tower of Qwen3-VL and Qwen3.5: learned positions that are stretched to an image's
grid, rotary pairs that turn by height and width, and a merger of 2 x 2 patches.

Qwen3-VL's mergers after some of the blocks reach into the first layers of its language model
(`deepstack`). A patch is made of two frames, which of a still image are one: the convolution over
time is stored as two, whose results llama.cpp adds. Source: llama.cpp's tools/mtmd/models/
qwen3vl.cpp, transformers' modeling_qwen3_vl.py.
"""

from collections.abc import Iterator
from itertools import chain
from math import isqrt
from typing import Any

from qconvert.checkpoint.metadata import Metadata, flags, u32
from qconvert.errors import CheckpointError
from qconvert.model.families.parts.common import expect, whole
from qconvert.model.types import Config
from qconvert.model.vision.tower import (
    CHANNELS,
    Tower,
    linear,
    norm,
    read_tower,
    tower_keys,
    vision_config,
)
from qconvert.model.vision.types import Extras, Line, Projector

NAME = "qwen3vl_merger"
DEFAULTS: dict[str, Any] = {
    "depth": 27,
    "hidden_size": 1152,
    "hidden_act": "gelu_pytorch_tanh",
    "intermediate_size": 4304,
    "num_heads": 16,
    "patch_size": 16,
    "num_position_embeddings": 2304,
}
DEEP = [8, 16, 24]
"""Qwen3-VL's blocks with a merger, where config.json does not name them."""

NAMES = {"blocks": "depth", "heads": "num_heads"}
MERGED, FRAMES = 2, 2
"""Patches of a side that become one token, and frames of a patch: those that llama.cpp has."""
EPSILON = 1e-6


def _tower(config: Config) -> Tower:
    settings = vision_config(config, DEFAULTS)
    positions = whole(settings, "num_position_embeddings")
    if isqrt(positions) ** 2 != positions:
        raise CheckpointError(f"config.json: {positions} positions of patches are no square")
    image = isqrt(positions) * whole(settings, "patch_size")
    return read_tower(config, settings, NAMES, image=image, epsilon=EPSILON)


def _deep(config: Config) -> list[int]:
    """The blocks with a merger of their own."""
    stacked = any("Qwen3VL" in str(name) for name in config["architectures"])
    found = vision_config(config, {}).get("deepstack_visual_indexes", DEEP if stacked else [])
    blocks = _tower(config).blocks
    usable = isinstance(found, list) and all(type(n) is int and 0 <= n < blocks for n in found)
    if not usable or sorted(set(found)) != found:
        raise CheckpointError(
            f"config.json: deepstack_visual_indexes is {found!r:.60}, not rising numbers of blocks"
        )
    return list(found)


def metadata(config: Config, extras: Extras) -> Metadata:
    tower, deep = _tower(config), _deep(config)
    return {
        **tower_keys(tower, extras, NAME),
        "clip.vision.spatial_merge_size": u32(MERGED),
        "clip.vision.is_deepstack_layers": flags([i in deep for i in range(tower.blocks)]),
    }


def limits(config: Config) -> None:
    settings = vision_config(config, DEFAULTS)
    expect(settings, "spatial_merge_size", (MERGED,))
    expect(settings, "temporal_patch_size", (FRAMES,))


def lines(config: Config, extras: Extras) -> tuple[Line, ...]:
    tower, deep = _tower(config), _deep(config)
    merged = MERGED**2 * tower.hidden
    positions = (whole(vision_config(config, DEFAULTS), "num_position_embeddings"), tower.hidden)
    return (
        *frames(tower),
        Line("v.patch_embd.bias", "visual.patch_embed.proj.bias", (tower.hidden,)),
        Line("v.position_embd.weight", "visual.pos_embed.weight", positions),
        *chain.from_iterable(_block(tower, i) for i in range(tower.blocks)),
        *chain.from_iterable(
            chain(
                norm(f"v.deepstack.{i}.norm", f"{_MERGERS}.{n}.norm", merged),
                linear(f"v.deepstack.{i}.fc1", f"{_MERGERS}.{n}.linear_fc1", merged, merged),
                linear(f"v.deepstack.{i}.fc2", f"{_MERGERS}.{n}.linear_fc2", tower.text, merged),
            )
            for n, i in enumerate(deep)
        ),
        *norm("v.post_ln", "visual.merger.norm", tower.hidden),
        *linear("mm.0", "visual.merger.linear_fc1", merged, merged),
        *linear("mm.2", "visual.merger.linear_fc2", tower.text, merged),
    )


_MERGERS = "visual.deepstack_merger_list"


def frames(tower: Tower) -> Iterator[Line]:
    """The convolution over two frames as one for each: rows of the one and the other by turns."""
    patch, source = tower.patch, "visual.patch_embed.proj.weight"
    stored = (tower.hidden, CHANNELS, FRAMES, patch, patch)
    for frame, name in enumerate(("v.patch_embd.weight", "v.patch_embd.weight.1")):
        starts = range(frame * patch, tower.hidden * CHANNELS * FRAMES * patch, FRAMES * patch)
        runs = tuple((start, start + patch) for start in starts)
        yield Line(name, source, tower.patch_shape, stored, runs)


def _block(tower: Tower, block: int) -> Iterator[Line]:
    gguf, hf = f"v.blk.{block}.", f"visual.blocks.{block}."
    yield from norm(gguf + "ln1", hf + "norm1", tower.hidden)
    yield from linear(gguf + "attn_qkv", hf + "attn.qkv", 3 * tower.hidden, tower.hidden)
    yield from linear(gguf + "attn_out", hf + "attn.proj", tower.hidden, tower.hidden)
    yield from norm(gguf + "ln2", hf + "norm2", tower.hidden)
    yield from linear(gguf + "ffn_up", hf + "mlp.linear_fc1", tower.ffn, tower.hidden)
    yield from linear(gguf + "ffn_down", hf + "mlp.linear_fc2", tower.hidden, tower.ffn)


QWEN3_VL = Projector(
    NAME,
    (
        "Qwen3VLForConditionalGeneration",
        "Qwen3VLMoeForConditionalGeneration",
        "Qwen3_5ForConditionalGeneration",
        "Qwen3_5MoeForConditionalGeneration",
    ),
    metadata,
    lines,
    own=r"visual\.",
    limits=limits,
)
