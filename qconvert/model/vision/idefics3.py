"""The vision part of Idefics3 and SmolVLM: a SigLIP tower, squares of patches side by side, and a
projection.

Source: llama.cpp's tools/mtmd/models/siglip.cpp, transformers' modeling_idefics3.py.
"""

from collections.abc import Mapping

from qconvert.checkpoint.metadata import Metadata, u32
from qconvert.errors import CheckpointError
from qconvert.model.families.parts.common import whole
from qconvert.model.types import Config
from qconvert.model.vision import siglip
from qconvert.model.vision.siglip import FIXED, siglip_lines
from qconvert.model.vision.tower import (
    LARGEST_SIDE,
    Tower,
    read_tower,
    tower_keys,
    vision_config,
)
from qconvert.model.vision.types import Extras, Line, Projector

NAME = "idefics3"
DEFAULTS = {**siglip.DEFAULTS, "hidden_size": 1152, "num_attention_heads": 16, "patch_size": 32}
SCALE = 2


def _tower(config: Config) -> Tower:
    return read_tower(config, vision_config(config, DEFAULTS), {})


def _scale(config: Config) -> int:
    """Patches of a side that become one token."""
    return whole(config, "scale_factor", default=SCALE, most=64)


def metadata(config: Config, extras: Extras) -> Metadata:
    tower, scale = _tower(config), _scale(config)
    if tower.image // tower.patch % scale:
        raise CheckpointError(
            f"config.json: {tower.image // tower.patch} patches of a side are no squares of {scale}"
        )
    size = extras.images.get("size")
    longest = size.get("longest_edge") if isinstance(size, Mapping) else None
    edge = whole({"longest_edge": longest}, "longest_edge", default=tower.image, most=LARGEST_SIDE)
    return {
        **tower_keys(tower, extras, NAME),
        "clip.vision.projector.scale_factor": u32(scale),
        "clip.vision.preproc_image_size": u32(edge),
    }


def lines(config: Config, extras: Extras) -> tuple[Line, ...]:
    tower = _tower(config)
    merged = _scale(config) ** 2 * tower.hidden
    projection = "connector.modality_projection.proj.weight"
    return (
        *siglip_lines(tower, "vision_model"),
        Line("mm.model.fc.weight", projection, (tower.text, merged)),
    )


IDEFICS3 = Projector(
    NAME,
    ("Idefics3ForConditionalGeneration", "SmolVLMForConditionalGeneration"),
    metadata,
    lines,
    own=r"(vision_model|connector)\.",
    fixed=FIXED,
)
