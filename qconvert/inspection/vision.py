"""What of a checkpoint reads images, in a line."""

from collections.abc import Mapping

from qconvert.checkpoint import Checkpoint
from qconvert.checkpoint.metadata import Field
from qconvert.model.vision import find_projector, reads_images
from qconvert.model.vision.open import ARCHITECTURE


def is_vision_part(metadata: Mapping[str, Field]) -> bool:
    """Whether a GGUF file is what reads images beside a language model.

    Args:
        metadata: its key-value pairs.
    """
    named = metadata.get("general.architecture")
    return named is not None and named.value == ARCHITECTURE


def describe_vision(checkpoint: Checkpoint) -> str:
    """The projector and the sizes of a vision part's file; of a directory the projector, and how
    it becomes such a file. Empty where nothing reads images."""
    if checkpoint.container != "gguf":
        if not reads_images(checkpoint.config):
            return ""
        return f"{find_projector(checkpoint.config).name}, for `qconvert export --mmproj`"
    keys = checkpoint.metadata
    if not is_vision_part(keys):
        return ""
    sizes = [
        f"{words} {keys[key].value}"
        for words, key in (
            ("blocks", "clip.vision.block_count"),
            ("patches of", "clip.vision.patch_size"),
            ("embeddings of", "clip.vision.projection_dim"),
        )
        if key in keys
    ]
    named = keys.get("clip.projector_type", keys.get("clip.vision.projector_type"))
    return ", ".join([str(named.value) if named else "no projector", *sizes])
