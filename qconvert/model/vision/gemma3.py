"""The vision part of Gemma 3: a SigLIP tower, the mean of each square of patches, a norm that is
stored as weight - 1, and a projection.

Source: llama.cpp's tools/mtmd/models/siglip.cpp, transformers' modeling_gemma3.py.
"""

from math import isqrt

from qconvert.checkpoint.metadata import Metadata, u32
from qconvert.errors import CheckpointError
from qconvert.model.families.parts.common import whole
from qconvert.model.types import Config
from qconvert.model.vision.siglip import DEFAULTS, FIXED, siglip_lines
from qconvert.model.vision.tower import Tower, read_tower, tower_keys, vision_config
from qconvert.model.vision.types import Extras, Line, Projector

NAME = "gemma3"
TOKENS = 256


def _tower(config: Config) -> Tower:
    return read_tower(config, vision_config(config, DEFAULTS), {})


def metadata(config: Config, extras: Extras) -> Metadata:
    tower = _tower(config)
    tokens = whole(config, "mm_tokens_per_image", default=TOKENS)
    pooled, rest = divmod(tower.image // tower.patch, isqrt(tokens))
    if isqrt(tokens) ** 2 != tokens or rest or not pooled:
        raise CheckpointError(
            f"config.json: {tower.image // tower.patch} patches of a side do not make "
            f"{tokens} tokens of an image"
        )
    return {
        **tower_keys(tower, extras, NAME),
        "clip.vision.projector.scale_factor": u32(pooled),
    }


def lines(config: Config, extras: Extras) -> tuple[Line, ...]:
    tower = _tower(config)
    projector = "multi_modal_projector."
    # The projection is stored [in, out], and stays so.
    projection = Line(
        "mm.input_projection.weight",
        projector + "mm_input_projection_weight",
        (tower.hidden, tower.text),
    )
    soft = projector + "mm_soft_emb_norm.weight"
    return (
        *siglip_lines(tower, "vision_tower"),
        projection,
        Line("mm.soft_emb_norm.weight", soft, (tower.hidden,), add=1.0),
    )


GEMMA3 = Projector(
    NAME,
    ("Gemma3ForConditionalGeneration",),
    metadata,
    lines,
    own=r"(vision_tower|multi_modal_projector)\.",
    wrappers={"vision_tower.vision_model.": "vision_tower."},
    # llama.cpp turns the projection when it runs, and can turn floats alone.
    fixed={**FIXED, "mm.input_projection.weight": "F16"},
    ignored=(r"vision_tower\.head\..*",),
)
