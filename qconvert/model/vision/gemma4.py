"""The vision part of Gemma 4: patches by a linear layer, a table of positions for each direction,
norms before and after each part, rotary pairs whose halves turn by width and height, the mean of
each square of patches, and a projection. Layers may clip what goes in and comes out.

Source: llama.cpp's tools/mtmd/models/gemma4v.cpp, transformers' modeling_gemma4.py.
"""

from collections.abc import Iterator, Mapping
from itertools import chain, product
from typing import Any

from qconvert.checkpoint.metadata import Metadata, u32
from qconvert.model.families.parts.common import expect, real, whole
from qconvert.model.types import Config
from qconvert.model.vision.tower import (
    CHANNELS,
    Tower,
    check_theta,
    norm,
    read_tower,
    tower_keys,
    vision_config,
)
from qconvert.model.vision.types import Extras, Line, Projector

NAME = "gemma4v"
IMAGE = 224
"""Pixels of a side, which llama.cpp wants to be told and does not use: images keep their shape."""
THETA = 100.0

DEFAULTS: dict[str, Any] = {
    "hidden_size": 768,
    "intermediate_size": 3072,
    "num_hidden_layers": 16,
    "num_attention_heads": 12,
    "num_key_value_heads": 12,
    "head_dim": 64,
    "hidden_activation": "gelu_pytorch_tanh",
    "rms_norm_eps": 1e-6,
    "pooling_kernel_size": 3,
    "patch_size": 16,
    "position_embedding_size": 10_240,
}

BOUNDS = ("input_min", "input_max", "output_min", "output_max")


def _tower(config: Config) -> Tower:
    settings = vision_config(config, DEFAULTS)
    epsilon = real(settings, "rms_norm_eps")
    names = {"activation": "hidden_activation"}
    return read_tower(config, settings, names, image=IMAGE, epsilon=epsilon)


def metadata(config: Config, extras: Extras) -> Metadata:
    pooled = whole(vision_config(config, DEFAULTS), "pooling_kernel_size", most=64)
    # Colours are not scaled but by the tower itself.
    plain = {"image_mean": [0.0] * CHANNELS, "image_std": [1.0] * CHANNELS}
    extras = Extras({**plain, **extras.images}, extras.tokens)
    return {
        **tower_keys(_tower(config), extras, NAME),
        "clip.vision.projector.scale_factor": u32(pooled),
    }


def limits(config: Config) -> None:
    settings, tower = vision_config(config, DEFAULTS), _tower(config)
    expect(settings, "head_dim", (tower.hidden // tower.heads,))
    expect(settings, "num_key_value_heads", (tower.heads,))
    expect(settings, "attention_bias", (False,))
    rope = settings.get("rope_parameters")
    check_theta(rope if isinstance(rope, Mapping) else {}, THETA)


def lines(config: Config, extras: Extras) -> tuple[Line, ...]:
    tower, settings = _tower(config), vision_config(config, DEFAULTS)
    places = (2, whole(settings, "position_embedding_size"), tower.hidden)
    embedder = "vision_tower.patch_embedder."
    return (
        Line(
            "v.patch_embd.weight",
            embedder + "input_proj.weight",
            tower.patch_shape,
            stored=(tower.hidden, CHANNELS * tower.patch**2),
            columns=_by_channel(tower.patch),
        ),
        Line("v.position_embd.weight", embedder + "position_embedding_table", places),
        *chain.from_iterable(_block(tower, block) for block in range(tower.blocks)),
        *(
            Line(f"v.{name}", f"vision_tower.{name}", (tower.hidden,), optional=True)
            for name in ("std_bias", "std_scale")
        ),
        Line(
            "mm.input_projection.weight",
            "embed_vision.embedding_projection.weight",
            (tower.text, tower.hidden),
        ),
    )


def _by_channel(patch: int) -> tuple[int, ...]:
    """The columns of a layer that reads a patch pixel by pixel, in the order of a convolution,
    which reads it color by color."""
    pixels = product(range(CHANNELS), range(patch), range(patch))
    return tuple((y * patch + x) * CHANNELS + channel for channel, y, x in pixels)


def _block(tower: Tower, block: int) -> Iterator[Line]:
    gguf, hf = f"v.blk.{block}.", f"vision_tower.encoder.layers.{block}."
    width, head = tower.hidden, tower.hidden // tower.heads
    yield from norm(gguf + "ln1", hf + "input_layernorm", width, bias=False)
    for name in ("q", "k", "v"):
        yield from _clipped(f"{gguf}attn_{name}", f"{hf}self_attn.{name}_proj", width, width)
    for name in ("q", "k"):
        yield from norm(f"{gguf}attn_{name}_norm", f"{hf}self_attn.{name}_norm", head, bias=False)
    yield from _clipped(gguf + "attn_out", hf + "self_attn.o_proj", width, width)
    yield from norm(gguf + "attn_post_norm", hf + "post_attention_layernorm", width, bias=False)
    yield from norm(gguf + "ln2", hf + "pre_feedforward_layernorm", width, bias=False)
    for name in ("gate", "up"):
        yield from _clipped(f"{gguf}ffn_{name}", f"{hf}mlp.{name}_proj", tower.ffn, width)
    yield from _clipped(gguf + "ffn_down", hf + "mlp.down_proj", width, tower.ffn)
    yield from norm(gguf + "ffn_post_norm", hf + "post_feedforward_layernorm", width, bias=False)


def _clipped(gguf: str, hf: str, outputs: int, inputs: int) -> Iterator[Line]:
    """A linear layer with the bounds of its inputs and outputs, if it has them."""
    yield Line(f"{gguf}.weight", f"{hf}.linear.weight", (outputs, inputs))
    for bound in BOUNDS:
        yield Line(f"{gguf}.{bound}", f"{hf}.{bound}", (1,), optional=True)


GEMMA4 = Projector(
    NAME,
    ("Gemma4ForConditionalGeneration",),
    metadata,
    lines,
    own=r"(vision_tower|embed_vision)\.",
    limits=limits,
)
