"""The plan of a GGUF file: every tensor with its sources, format and bytes, before any is read.

    model + recipe + statistics -> Plan

`inspect`, `--dry-run`, disk checks, fallbacks and resuming all come from it; what cannot work is
said here.
"""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from qconvert import __version__
from qconvert.calibration.importance import Importance, match_importance
from qconvert.checkpoint import Checkpoint, TensorInfo
from qconvert.checkpoint.blocks import ggml_type
from qconvert.checkpoint.metadata import Metadata, text, u32
from qconvert.containers.gguf import ALIGNMENT, GgufFiles, file_size, pairs_bytes
from qconvert.containers.target import Slot
from qconvert.errors import PlanError
from qconvert.formats import FORMATS
from qconvert.formats.ggml.grids import FINDERS
from qconvert.formats.types import block_sizes
from qconvert.model.open import Model
from qconvert.model.transforms import Some
from qconvert.model.types import TensorMap
from qconvert.plan.algorithms import made_with, with_algorithm, without_algorithm
from qconvert.plan.blocks import Blocks
from qconvert.plan.changes import larger
from qconvert.plan.gguf.mixture import Choice, choose_formats, facts_from_metadata
from qconvert.plan.names import names_elsewhere
from qconvert.plan.overrides import matcher
from qconvert.plan.recipe import Recipe
from qconvert.plan.statistics import NOTHING, Statistics
from qconvert.plan.types import Plan, TensorPlan

QUANTIZATION_VERSION = 2
"""ggml's own, `GGML_QNT_VERSION`: the layout of the block types."""


def plan_file(model: Model, recipe: Recipe, statistics: Statistics = NOTHING) -> Plan:
    """Decide what every tensor becomes.

    Raises:
        UsageError: a type's name is not known, or a pattern is not well formed.
        PlanError: a tensor has no place, a pattern matches nothing, the importance belongs to
            another model, or a fallback is needed and the recipe refuses it.
    """
    check_leftovers(model.left_out, model.unknown, model.architecture, recipe.ignore)
    checkpoint = model.checkpoint
    listed = [(tensor.name, tensor.shape, model.source_type(tensor)) for tensor in model.tensors]
    importance, warnings = statistics.importance, list[str]()
    unused = {tensor.name for tensor in model.tensors if tensor.unused}  # of which nothing is known
    if importance:
        shapes = {name: shape for name, shape, _ in listed if name not in unused}
        importance, warnings = match_importance(importance, shapes)
    choices = choose_formats(
        recipe,
        facts_from_metadata(model.metadata),
        listed,
        {*importance.values, *unused} if importance else None,
        from_gguf=model.checkpoint.container == "gguf",
        elsewhere=lambda: names_elsewhere(model),
    )
    tensors = tuple(
        with_algorithm(
            _with_peers(plan_tensor(map_, choice, dtype, importance, checkpoint)),
            statistics,
            model,
        )
        for map_, choice, (_, _, dtype) in zip(model.tensors, choices, listed, strict=True)
    )
    behind = without_algorithm(tensors, statistics)
    words = recipe.budget | made_with(tensors, statistics.sample)
    header = {
        **made_by(checkpoint.source, model.fingerprint, recipe, importance),
        **{key: text(value) for key, value in words.items()},
    }
    slots = tuple(slot for tensor in tensors for slot in tensor.slots)
    grown = larger(tensors, model.checkpoint.tensors)
    return Plan(
        checkpoint,
        recipe,
        tensors,
        GgufFiles(
            recipe.path(model.checkpoint.source),
            {**model.metadata, **header},
            slots,
            recipe.split_max_size,
        ),
        file_size(model.pairs_size + len(pairs_bytes(header)), slots),
        (*model.notices, *grown, *statistics.notices, *behind, *warnings),
        sample=statistics.sample,
    )


def check_leftovers(
    left_out: Sequence[str], unknown: Sequence[str], architecture: str, ignore: Sequence[str]
) -> None:
    """Refuse to leave out what nothing is known of, where the user does not say so.

    Args:
        unknown: those of `left_out` of which nothing is known.
        architecture: of the file.
        ignore: patterns of what may be left out.

    Raises:
        PlanError: there are others, or a pattern matches nothing.
    """
    patterns = [(pattern, matcher(pattern)) for pattern in ignore]
    for pattern, matches in patterns:
        if not any(map(matches, left_out)):
            raise PlanError(f"--ignore {pattern} matches no tensor that would be left out")
    rest = [name for name in unknown if not any(matches(name) for _, matches in patterns)]
    if rest:
        more = f" and {len(rest) - 1} more" if len(rest) > 1 else ""
        raise PlanError(
            f"{rest[0]}{more} cannot be placed in a {architecture} file",
            "the checkpoint has more than its family, or more than config.json says; if the model "
            "does without, leave such tensors out with --ignore PATTERN",
        )


def plan_tensor(
    map_: TensorMap,
    choice: Choice,
    dtype: str,
    importance: Importance | None,
    checkpoint: Checkpoint,
) -> TensorPlan:
    """A tensor of a file, with what it becomes."""
    values = importance.values.get(map_.name) if importance else None
    means = importance.means.get(map_.name) if importance else None
    several = values is not None and len(values) > 1
    block, block_bytes = block_sizes(choice.format)
    nbytes = map_.elements // block * block_bytes
    extra = 0
    if choice.fell_back:
        block, block_bytes = block_sizes(choice.wanted)
        extra = nbytes - round(map_.elements * block_bytes / block)
    scales = map_.rows // map_.matrix_rows if has_scale(choice.format) else 0
    slots = [Slot(map_.name, map_.shape, choice.format, nbytes, ALIGNMENT)]
    if scales:
        name = f"{map_.name.removesuffix('.weight')}.scale"
        slots.append(Slot(name, (scales,), "F32", 4 * scales, ALIGNMENT))
    return TensorPlan(
        map_.name,
        map_.shape,
        dtype,
        map_,
        tuple(slots),
        Blocks(
            map_.name,
            choice.format,
            map_.shape[-2] if several else map_.rows,
            _can_be_moved(map_, choice.format, checkpoint.tensors),
            values,
            means,
            rounded_to=_rounded_to(map_, choice.format, checkpoint.tensors),
            scales=scales,
        ),
        choice.format,
        choice.wanted,
        choice.reason,
        extra,
    )


def has_scale(format_: str) -> bool:
    """Whether tensors of a format have a float32 beside them."""
    return format_ in FORMATS and FORMATS[format_].needs_peak


def _with_peers(tensor: TensorPlan) -> TensorPlan:
    """A tensor whose scale is drawn from its largest weight asks for that."""
    return replace(tensor, peers=[tensor]) if len(tensor.slots) > 1 else tensor


def _can_be_moved(tensor: TensorMap, format_: str, sources: Mapping[str, TensorInfo]) -> bool:
    """Whether the stored blocks can stay as they are."""
    infos = [sources[part.source] for part in tensor.parts]
    if any(info.delta is not None or info.scale is not None for info in infos):
        return False
    turned = {info.codes is not None and info.codes.turned for info in infos}
    if turned != {tensor.transpose} or _is_computed(tensor, infos):
        return False
    return {ggml_type(info) for info in infos} == {format_} and block_sizes(format_)[0] > 1


def _is_computed(tensor: TensorMap, infos: Sequence[TensorInfo]) -> bool:
    """Whether its values are others than those of its codes; of a tensor that is stored [in, out]
    each so many rows of the codes may be taken."""
    plain = replace(tensor, transpose=False)
    steps = [step for part in tensor.parts for step in part.steps]
    if tensor.transpose and len(infos) == 1 and len(steps) == 1 and isinstance(steps[0], Some):
        step, columns = steps[0], infos[0].columns
        if step.stop == columns and not columns % step.stride and step.start < step.stride:
            plain = replace(plain, parts=tuple(replace(part, steps=()) for part in plain.parts))
    return plain.is_computed


def _rounded_to(tensor: TensorMap, format_: str, sources: Mapping[str, TensorInfo]) -> str:
    """What the weights were rounded to as they are; empty where they are computed, or where their
    format's grid is not looked for."""
    if format_ not in FINDERS or replace(tensor, transpose=False, reshaped=False).is_computed:
        return ""
    infos = [sources[part.source] for part in tensor.parts]
    dtypes = {info.dtype for info in infos if info.is_plain}
    plain = len(dtypes) == 1 and all(info.is_plain for info in infos)
    return dtypes.pop() if plain and dtypes <= {"F16", "BF16"} else "F32"


def made_by(
    source: str, fingerprint: str, recipe: Recipe, importance: Importance | None
) -> Metadata:
    """What a later reader needs to know how the file came to be."""
    keys = {
        "general.file_type": u32(recipe.file_type.ftype),
        "general.quantization_version": u32(QUANTIZATION_VERSION),
        "general.quantized_by": text(f"qconvert {__version__}"),
        "qconvert.version": text(__version__),
        "qconvert.source": text(source),
        "qconvert.source.fingerprint": text(fingerprint),
        "qconvert.file_type": text(recipe.file_type.name),
    }
    if importance is None:
        return keys
    return {
        **keys,
        "quantize.imatrix.file": text(importance.path.name),
        "quantize.imatrix.dataset": text(", ".join(importance.datasets)),
        "quantize.imatrix.entries_count": u32(len(importance.values)),
        "quantize.imatrix.chunks_count": u32(importance.chunk_count),
        "qconvert.importance.sha256": text(_sha256(importance.path)),
    }


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        digest = hashlib.sha256()
        while data := file.read(1 << 20):
            digest.update(data)
    return digest.hexdigest()
