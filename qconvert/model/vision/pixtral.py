"""The vision part of Mistral 3: Pixtral's tower, whose rotary pairs turn by height and width, and
squares of patches that a layer merges. llama.cpp puts the embedding of [IMG_BREAK] behind each row
of an image, and wants it in this file.

Source: llama.cpp's tools/mtmd/models/pixtral.cpp, transformers' modeling_pixtral.py and
modeling_mistral3.py.
"""

from collections.abc import Iterator, Mapping
from itertools import chain
from typing import Any

from qconvert.checkpoint.metadata import Metadata, u32
from qconvert.errors import CheckpointError
from qconvert.model.families.parts.common import expect, real, whole
from qconvert.model.types import Config
from qconvert.model.vision.tower import (
    Tower,
    check_theta,
    linear,
    norm,
    read_tower,
    text_settings,
    tower_keys,
    vision_config,
)
from qconvert.model.vision.types import Extras, Line, Projector

NAME = "pixtral"
EPSILON, THETA = 1e-5, 10_000.0
"""What norms add to a variance, which transformers has in its code, and llama.cpp's rotary base."""
BREAK = "[IMG_BREAK]"
MERGED = 2

DEFAULTS: dict[str, Any] = {
    "hidden_size": 1024,
    "intermediate_size": 4096,
    "num_hidden_layers": 24,
    "num_attention_heads": 16,
    "image_size": 1024,
    "patch_size": 16,
    "hidden_act": "gelu",
}


def _tower(config: Config) -> Tower:
    return read_tower(config, vision_config(config, DEFAULTS), {}, epsilon=EPSILON)


def _merged(config: Config) -> int:
    return whole(config, "spatial_merge_size", default=MERGED, most=64)


def metadata(config: Config, extras: Extras) -> Metadata:
    keys = tower_keys(_tower(config), extras, NAME)
    return {**keys, "clip.vision.spatial_merge_size": u32(_merged(config))}


def limits(config: Config) -> None:
    settings, tower = vision_config(config, DEFAULTS), _tower(config)
    expect(settings, "head_dim", (tower.hidden // tower.heads,))
    expect(config, "vision_feature_layer", (-1, [-1]))
    expect(config, "projector_hidden_act", ("gelu",))
    rope = settings.get("rope_parameters")
    check_theta(rope if isinstance(rope, Mapping) else settings, THETA)


def caveats(config: Config) -> tuple[str, ...]:
    inner = config.get("text_config")
    found = real(inner if isinstance(inner, Mapping) else {}, "rms_norm_eps", default=EPSILON)
    told = (
        f"llama.cpp adds {EPSILON:g} to a variance in the projector's norm, and the model {found:g}"
    )
    return (told,) if found != EPSILON else ()


def lines(config: Config, extras: Extras) -> tuple[Line, ...]:
    tower, merged = _tower(config), _merged(config) ** 2
    projector, width = "multi_modal_projector.", tower.hidden
    return (
        Line("v.patch_embd.weight", "vision_tower.patch_conv.weight", tower.patch_shape),
        *norm("v.pre_ln", "vision_tower.ln_pre", width, bias=False),
        *chain.from_iterable(_block(tower, block) for block in range(tower.blocks)),
        *norm("mm.input_norm", projector + "norm", width, bias=False),
        Line(
            "mm.patch_merger.weight",
            projector + "patch_merger.merging_layer.weight",
            (width, merged * width),
        ),
        *linear("mm.1", projector + "linear_1", tower.text, width, optional=True),
        *linear("mm.2", projector + "linear_2", tower.text, tower.text, optional=True),
        _break(config, tower, extras),
    )


def _break(config: Config, tower: Tower, extras: Extras) -> Line:
    """The row of the language model's embeddings that ends a row of patches."""
    rows = whole(text_settings(config), "vocab_size")
    number = extras.tokens().get(BREAK)
    if number is None or not 0 <= number < rows:
        raise CheckpointError(
            f"no token is {BREAK}, which ends the rows of an image",
            "put tokenizer.json beside config.json",
        )
    run, stored = (number, number + 1), (rows, tower.text)
    return Line("v.token_embd.img_break", "embed_tokens.weight", (tower.text,), stored, (run,))


def _block(tower: Tower, block: int) -> Iterator[Line]:
    gguf, hf = f"v.blk.{block}.", f"vision_tower.transformer.layers.{block}."
    width = tower.hidden
    yield from norm(gguf + "ln1", hf + "attention_norm", width, bias=False)
    for name in ("q", "k"):
        source = f"{hf}attention.{name}_proj.weight"
        yield Line(f"{gguf}attn_{name}.weight", source, (width, width), heads=tower.heads)
    yield from linear(gguf + "attn_v", hf + "attention.v_proj", width, width, bias=False)
    yield from linear(gguf + "attn_out", hf + "attention.o_proj", width, width, bias=False)
    yield from norm(gguf + "ln2", hf + "ffn_norm", width, bias=False)
    for name in ("gate", "up"):
        source = f"{hf}feed_forward.{name}_proj"
        yield from linear(f"{gguf}ffn_{name}", source, tower.ffn, width, bias=False)
    yield from linear(
        gguf + "ffn_down", hf + "feed_forward.down_proj", width, tower.ffn, bias=False
    )


PIXTRAL = Projector(
    NAME,
    ("Mistral3ForConditionalGeneration",),
    metadata,
    lines,
    own=r"(vision_tower|multi_modal_projector)\.",
    limits=limits,
    caveats=caveats,
)
