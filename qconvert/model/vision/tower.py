"""What all vision towers share: their sizes, read from `vision_config`, and GGUF's keys for them.

Keys and their meaning: llama.cpp's tools/mtmd/clip-impl.h.
"""

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from qconvert.checkpoint.metadata import Metadata, f32, f32s, flag, text, u32
from qconvert.errors import CheckpointError, UnsupportedError
from qconvert.model.families.parts.common import MOST_BLOCKS, real, whole
from qconvert.model.types import Config
from qconvert.model.vision.types import Extras, Line

LARGEST_SIDE, LARGEST_PATCH = 1 << 16, 256
CHANNELS = 3
RESCALED = 1 / 255
"""By which colours are multiplied before all else."""

Activation = Literal["gelu", "silu", "quick_gelu"]

ACTIVATIONS: Mapping[str, Activation] = {
    "gelu": "gelu",
    "gelu_pytorch_tanh": "gelu",
    "silu": "silu",
    "swish": "silu",
    "quick_gelu": "quick_gelu",
}
"""transformers' names -> those that llama.cpp tells apart."""


@dataclass(frozen=True)
class Tower:
    """The sizes of a vision tower.

    Attributes:
        hidden, ffn: the widths of the stream and of the feed-forward part.
        patch, image: pixels of a side.
        text: the width of the language model.
        epsilon: what norms add to a variance.
    """

    blocks: int
    hidden: int
    ffn: int
    heads: int
    patch: int
    image: int
    text: int
    epsilon: float
    activation: Activation

    @property
    def patch_shape(self) -> tuple[int, ...]:
        """Of the convolution that makes patches into vectors."""
        return self.hidden, CHANNELS, self.patch, self.patch


def vision_config(config: Config, defaults: Mapping[str, Any]) -> dict[str, Any]:
    """The tower's settings; the class's defaults stand for what is not mentioned.

    Raises:
        CheckpointError: there are none.
    """
    inner = config.get("vision_config")
    if not isinstance(inner, Mapping):
        raise CheckpointError(
            "config.json has no vision_config: there is no vision tower",
            "name the multimodal checkpoint; its language model is converted without --mmproj",
        )
    return {**defaults, **{key: value for key, value in inner.items() if value is not None}}


def text_settings(config: Config) -> Config:
    """Of the language model that reads what the tower sees."""
    inner = config.get("text_config")
    return {**config, **inner} if isinstance(inner, Mapping) else config


def check_theta(rope: Config, built_in: float) -> None:
    """Raises UnsupportedError: the rotary base is not llama.cpp's own."""
    theta = real(rope, "rope_theta", default=built_in)
    if theta != built_in:
        raise UnsupportedError(
            f"config.json: rope_theta = {theta:g} cannot be expressed in GGUF for this tower",
            f"llama.cpp runs it with {built_in:g} only",
        )


def read_tower(
    config: Config,
    settings: Config,
    names: Mapping[str, str],
    *,
    image: int | None = None,
    epsilon: float | None = None,
) -> Tower:
    """The sizes of a tower.

    Args:
        config: `config.json`.
        settings: of `vision_config`.
        names: how the class calls "blocks", "heads", "hidden", "ffn" and "activation", where that
            is not the usual.
        image: pixels of a side, where no setting says them.
        epsilon: where no setting says it.

    Raises:
        CheckpointError: a size is missing or out of range.
        UnsupportedError: an activation that llama.cpp has not.
    """

    def size(name: str, usual: str, most: int = LARGEST_SIDE) -> int:
        return whole(settings, names.get(name, usual), most=most)

    tower = Tower(
        blocks=size("blocks", "num_hidden_layers", MOST_BLOCKS),
        hidden=size("hidden", "hidden_size"),
        ffn=size("ffn", "intermediate_size", LARGEST_SIDE * 4),
        heads=size("heads", "num_attention_heads"),
        patch=whole(settings, "patch_size", most=LARGEST_PATCH),
        image=image or whole(settings, "image_size", most=LARGEST_SIDE),
        text=whole(text_settings(config), "hidden_size"),
        epsilon=real(settings, "layer_norm_eps") if epsilon is None else epsilon,
        activation=_activation(settings.get(names.get("activation", "hidden_act"))),
    )
    if tower.hidden % tower.heads:
        raise CheckpointError(
            f"config.json: {tower.heads} heads do not share a width of {tower.hidden} evenly"
        )
    if tower.image < tower.patch:
        raise CheckpointError(
            f"config.json: patches of {tower.patch} pixels do not fit images of {tower.image}"
        )
    channels = settings.get("num_channels", settings.get("in_channels", CHANNELS))
    if channels != CHANNELS:
        raise UnsupportedError(f"config.json: images of {channels!r:.20} channels are not read")
    return tower


def _activation(name: object) -> Activation:
    if not isinstance(name, str) or name not in ACTIVATIONS:
        raise UnsupportedError(
            f"config.json: llama.cpp has no vision tower with the activation {name!r:.60}"
        )
    return ACTIVATIONS[name]


def tower_keys(tower: Tower, extras: Extras, projector: str) -> Metadata:
    """The keys that every projector has.

    Raises:
        CheckpointError: nothing says how colours are scaled.
        UnsupportedError: they are scaled as llama.cpp does not.
    """
    factor = extras.images.get("rescale_factor", RESCALED)
    usual = isinstance(factor, int | float) and abs(factor - RESCALED) < 1e-6
    if extras.images.get("do_rescale") is False or not usual:
        raise UnsupportedError(
            "preprocessor_config.json: colours are not divided by 255, as llama.cpp does"
        )
    keys = {
        "clip.has_vision_encoder": flag(True),
        "clip.projector_type": text(projector),
        "clip.vision.projection_dim": u32(tower.text),
        "clip.vision.image_size": u32(tower.image),
        "clip.vision.patch_size": u32(tower.patch),
        "clip.vision.embedding_length": u32(tower.hidden),
        "clip.vision.feed_forward_length": u32(tower.ffn),
        "clip.vision.block_count": u32(tower.blocks),
        "clip.vision.attention.head_count": u32(tower.heads),
        "clip.vision.attention.layer_norm_epsilon": f32(tower.epsilon),
        "clip.vision.image_mean": f32s(_colours(extras, "image_mean")),
        "clip.vision.image_std": f32s(_colours(extras, "image_std")),
    }
    if tower.activation != "quick_gelu":
        keys[f"clip.use_{tower.activation}"] = flag(True)
    return keys


def _colours(extras: Extras, name: str) -> list[float]:
    """A number for each of red, green and blue."""
    found = extras.images.get(name)
    if extras.images.get("do_normalize") is False:
        found = [1.0 if name == "image_std" else 0.0] * CHANNELS
    if found is None:
        raise CheckpointError(
            f"nothing says {name}, by which colours are scaled",
            "put preprocessor_config.json beside config.json",
        )
    numbers = found if isinstance(found, list) else []
    fit = all(isinstance(n, int | float) and math.isfinite(n) and abs(n) < 1e6 for n in numbers)
    if len(numbers) != CHANNELS or not fit or (name == "image_std" and not all(numbers)):
        raise CheckpointError(f"preprocessor_config.json: {name} is {found!r:.60}, not 3 numbers")
    return [float(number) for number in numbers]


def linear(
    gguf: str, hf: str, outputs: int, inputs: int, *, bias: bool = True, optional: bool = False
) -> Iterator[Line]:
    """A linear layer: weight, and bias if it has one.

    Args:
        gguf, hf: names without ".weight".
        optional: the bias may be lacking.
    """
    yield Line(f"{gguf}.weight", f"{hf}.weight", (outputs, inputs))
    if bias:
        yield Line(f"{gguf}.bias", f"{hf}.bias", (outputs,), optional=optional)


def norm(gguf: str, hf: str, width: int, *, bias: bool = True) -> Iterator[Line]:
    """A norm: weight, and bias if it has one."""
    yield Line(f"{gguf}.weight", f"{hf}.weight", (width,))
    if bias:
        yield Line(f"{gguf}.bias", f"{hf}.bias", (width,))


def fraction(lines: Iterator[Line], part: int, parts: int) -> Iterator[Line]:
    """Of sources that hold `parts` layers one below the other, the rows of one of them."""
    for line in lines:
        height, *rest = line.shape
        run = (part * height, (part + 1) * height)
        yield Line(line.gguf, line.hf, line.shape, (parts * height, *rest), (run,))
