"""Vision towers with their projectors, one file each: what llama.cpp's mtmd takes beside a language
model (--mmproj).

A new projector is a file here and a line in `PROJECTORS`.
"""

from collections.abc import Mapping

from qconvert.errors import CheckpointError, UnsupportedError
from qconvert.model.families.parts.common import named_class
from qconvert.model.types import Config
from qconvert.model.vision.gemma3 import GEMMA3
from qconvert.model.vision.gemma4 import GEMMA4
from qconvert.model.vision.idefics3 import IDEFICS3
from qconvert.model.vision.pixtral import PIXTRAL
from qconvert.model.vision.qwen2_vl import QWEN2_5_VL, QWEN2_VL
from qconvert.model.vision.qwen3_vl import QWEN3_VL
from qconvert.model.vision.types import Projector

PROJECTORS = (QWEN3_VL, QWEN2_5_VL, QWEN2_VL, GEMMA3, GEMMA4, PIXTRAL, IDEFICS3)

BY_CLASS = {name: projector for projector in PROJECTORS for name in projector.classes}

HEARING = frozenset(
    (
        *("Qwen2AudioForConditionalGeneration", "UltravoxModel", "VoxtralForConditionalGeneration"),
        *("GlmAsrForConditionalGeneration", "GraniteSpeechForConditionalGeneration"),
        *("Qwen3ASRForConditionalGeneration", "WhisperForConditionalGeneration"),
        *("Qwen2_5OmniModel", "Qwen2_5OmniForConditionalGeneration"),
        *("Qwen3OmniMoeForConditionalGeneration", "Gemma3nForConditionalGeneration"),
        *("Gemma4UnifiedForConditionalGeneration", "Phi4MultimodalForCausalLM"),
    )
)
"""Classes that hear, some of which see besides."""


OTHERWISE = {
    "LlavaForConditionalGeneration": "gives each patch the position of the one before it, and "
    "takes CLIP's class token for one",
}
"""Classes whose images llama.cpp sees in another way than transformers, and how (llama.cpp's
#25814)."""


def reads_images(config: Config) -> bool:
    """Whether a checkpoint has a vision part that is known here.

    Args:
        config: `config.json`.
    """
    return named_class(config) in BY_CLASS and isinstance(config.get("vision_config"), Mapping)


def find_projector(config: Config) -> Projector:
    """The projector of a checkpoint.

    Args:
        config: `config.json`.

    Raises:
        CheckpointError: it names no class.
        UnsupportedError: no such projector here.
    """
    name = named_class(config)
    if name is None:
        raise CheckpointError("config.json names no architecture")
    if name in HEARING:
        raise UnsupportedError(
            f"{name} hears: audio towers are not converted",
            "llama.cpp's own convert_hf_to_gguf.py --mmproj knows some of them",
        )
    if name in OTHERWISE:
        raise UnsupportedError(
            f"llama.cpp sees the images of {name} in another way: it {OTHERWISE[name]}",
            "its language model is converted without --mmproj",
        )
    if name not in BY_CLASS:
        raise UnsupportedError(
            f"no vision tower of {name:.80} is known", f"known: {', '.join(BY_CLASS)}"
        )
    return BY_CLASS[name]
