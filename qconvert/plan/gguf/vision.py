"""The plan of a vision part's file: every tensor with its format, before any is read.

Formats are those of llama.cpp's converter for such files: its own kernels read the patches'
convolution, positions and norms in float, whatever the rest is.
"""

from dataclasses import replace

from qconvert.checkpoint import Checkpoint, fingerprint
from qconvert.checkpoint.metadata import Metadata
from qconvert.containers.gguf import GgufFiles, file_size, pairs_bytes
from qconvert.errors import UsageError
from qconvert.formats.types import block_sizes
from qconvert.model.roles import can_be_quantized, is_always_f32
from qconvert.model.vision.open import ARCHITECTURE, Vision
from qconvert.plan.gguf.mixture import Choice
from qconvert.plan.gguf.plan import check_leftovers, made_by, plan_tensor
from qconvert.plan.recipe import Recipe
from qconvert.plan.types import Plan

TYPES = ("f32", "f16", "bf16", "q8_0")
"""What such files are written in: images suffer from fewer bits, and the file is small."""

PATCHES = (".patch_embd.", ".patch_merger.")


def plan_vision(vision: Vision, recipe: Recipe) -> Plan:
    """Decide what every tensor becomes.

    Raises:
        UsageError: the type is none for such files.
        PlanError: a tensor has no place, or a pattern matches nothing.
    """
    if recipe.type not in TYPES:
        raise UsageError(f"{recipe.type} is no type of a vision part", f"choose {', '.join(TYPES)}")
    check_leftovers(vision.left_out, vision.unknown, ARCHITECTURE, recipe.ignore)
    checkpoint, base = vision.checkpoint, recipe.file_type.base
    tensors = tuple(
        plan_tensor(
            map_,
            vision_format(map_.name, map_.shape, base, vision.fixed.get(map_.name)),
            checkpoint.tensors[map_.parts[0].source].dtype,
            None,
            checkpoint,
        )
        for map_ in vision.tensors
    )
    header: Metadata = {
        **vision.metadata,
        **made_by(checkpoint.source, fingerprint(_read_of(vision)), recipe, None),
    }
    slots = tuple(slot for tensor in tensors for slot in tensor.slots)
    return Plan(
        checkpoint,
        recipe,
        tensors,
        GgufFiles(recipe.path(checkpoint.source), header, slots, None),
        file_size(len(pairs_bytes(header)), slots),
        vision.notices,
    )


def _read_of(vision: Vision) -> Checkpoint:
    """The checkpoint with what the file is made of alone: the rest of it may not be here."""
    stored = vision.checkpoint.tensors
    sources = sorted({part.source for map_ in vision.tensors for part in map_.parts})
    return replace(vision.checkpoint, tensors={name: stored[name] for name in sources})


def vision_format(name: str, shape: tuple[int, ...], base: str, fixed: str | None = None) -> Choice:
    """What a tensor becomes.

    Args:
        base: the format that most have.
        fixed: the type that it has whatever is asked for; F32 holds that too.
    """
    if fixed is not None:
        stays = "F32" if base == "F32" else fixed
        return Choice(name, stays, stays)
    if len(shape) > 1 and any(part in name for part in PATCHES):
        stays = "F16" if base == "F16" else "F32"
        return Choice(name, stays, stays)
    if is_always_f32(name, shape):
        return Choice(name, "F32", "F32")
    block = block_sizes(base)[0]
    if not can_be_quantized(name, shape, ARCHITECTURE) and block > 1:
        return Choice(name, "F16", "F16")
    if shape[-1] % block:
        return Choice(name, "F16", base, f"row of {shape[-1]} is not a multiple of {block}")
    return Choice(name, base, base)
