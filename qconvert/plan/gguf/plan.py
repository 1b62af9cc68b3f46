"""The plan of a GGUF file: every tensor with its sources, format and bytes, before any is read.

    model + recipe + statistics -> Plan

`inspect`, `--dry-run`, disk checks, fallbacks and resuming all come from it; what cannot work is
said here.
"""

import hashlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from gguf import GGUFValueType

from qconvert import __version__
from qconvert.calibration.importance import Importance, match_importance
from qconvert.checkpoint import Checkpoint, TensorInfo, fingerprint
from qconvert.checkpoint.metadata import Field, Metadata, text, u32
from qconvert.containers.gguf import ALIGNMENT, GgufFiles, file_size, pairs_bytes
from qconvert.containers.target import Slot
from qconvert.formats.types import block_sizes
from qconvert.model.caveats import caveats
from qconvert.model.families import find_architecture, map_tensors, pooling_metadata
from qconvert.model.general import general_metadata
from qconvert.model.tokenizers.tokenizer import has_tokenizer, tokenizer_metadata
from qconvert.model.types import Rows, TensorMap
from qconvert.plan.blocks import Blocks
from qconvert.plan.gguf.mixture import Choice, choose_formats, facts_from_metadata
from qconvert.plan.recipe import Recipe
from qconvert.plan.statistics import NOTHING, Statistics
from qconvert.plan.types import Plan, TensorPlan

QUANTIZATION_VERSION = 2
"""ggml's own, `GGML_QNT_VERSION`: the layout of the block types."""

FILE_KEYS = (
    "general.alignment",
    "general.file_type",
    "general.quantization_version",
    "general.quantized_by",
    "quantize.imatrix.",
    "qconvert.",
    "split.",
)
"""How the keys begin that describe a file and not the model in it."""


@dataclass(frozen=True)
class Model:
    """A checkpoint as GGUF sees it, whatever its container: nothing about types is decided yet.

    Attributes:
        checkpoint: where the weights are.
        architecture: `general.architecture`.
        tensors: how each GGUF tensor is made.
        metadata: all keys that do not depend on the output's types.
        notices: what the user should know (tensors left out, requantizing).
    """

    checkpoint: Checkpoint
    architecture: str
    tensors: tuple[TensorMap, ...]
    metadata: Metadata
    notices: tuple[str, ...] = ()

    @cached_property
    def pairs_size(self) -> int:
        """Bytes of the metadata in a file."""
        return len(pairs_bytes(self.metadata))

    @cached_property
    def fingerprint(self) -> str:
        """What identifies the weights and the configuration."""
        return fingerprint(self.checkpoint)

    @cached_property
    def parameters(self) -> int:
        """Weights that the checkpoint holds; computed tables are not counted."""
        return sum(tensor.elements for tensor in self.tensors if tensor.value is None)

    def source_type(self, tensor: TensorMap) -> str:
        """The dtype of the stored weights that a tensor is made of."""
        if not tensor.parts:
            return "F32"
        return self.checkpoint.tensors[tensor.parts[0].source].dtype


def read_model(checkpoint: Checkpoint) -> Model:
    """The checkpoint's tensors and metadata under GGUF's names.

    Raises:
        UnsupportedError: an unknown family or tokenizer.
        PlanError: tensors are missing or do not fit the configuration.
    """
    if checkpoint.container == "gguf":
        return _read_gguf(checkpoint)
    architecture = find_architecture(checkpoint.config)
    tensors, unused = map_tensors(architecture, checkpoint.config, checkpoint.tensors)
    path, config, name = checkpoint.path, checkpoint.config, architecture.name
    family = architecture.metadata(config)
    notices = [*caveats(config, family), *([_notice_unused(unused)] if unused else [])]
    codes = {info.dtype for info in checkpoint.tensors.values() if info.codes}
    notices += [_notice_quantized(codes)] if codes else []
    if has_tokenizer(path):
        tokenizer = tokenizer_metadata(path, config, name)
    else:
        tokenizer = {"tokenizer.ggml.model": text("no_vocab")}
        notices.append("there is no tokenizer beside the weights: the file will have none")
    metadata = {
        **general_metadata(path, checkpoint.source, name, tensors),
        **family,
        **pooling_metadata(path, name),
        **tokenizer,
    }
    return Model(checkpoint, name, tensors, _of_the_model(metadata), tuple(notices))


def _notice_unused(names: tuple[str, ...]) -> str:
    shown = ", ".join(names[:3]) + (", ..." if len(names) > 3 else "")
    return f"{len(names)} tensors have no place in GGUF and are left out: {shown}"


def _notice_quantized(dtypes: Iterable[str]) -> str:
    names = ", ".join(sorted(dtypes))
    return f"the source is quantized already ({names}): what it lost stays lost"


def _read_gguf(checkpoint: Checkpoint) -> Model:
    tensors = tuple(
        TensorMap(info.name, info.shape or (1,), (Rows(info.name, 0, info.rows),))
        for info in checkpoint.tensors.values()
    )
    quantized = {info.dtype for info in checkpoint.tensors.values()} - {"F32", "F16", "BF16", "F64"}
    notice = _notice_quantized(quantized)
    architecture = checkpoint.metadata["general.architecture"].value
    metadata = _of_the_model(checkpoint.metadata)
    return Model(checkpoint, architecture, tensors, metadata, (notice,) if quantized else ())


def _of_the_model(metadata: Mapping[str, Field]) -> Metadata:
    """Without what describes a file, and without nested arrays, for which there is no writer."""
    return {
        key: field
        for key, field in metadata.items()
        if not key.startswith(FILE_KEYS) and field.item is not GGUFValueType.ARRAY
    }


def make_plan(model: Model, recipe: Recipe, statistics: Statistics = NOTHING) -> Plan:
    """Decide what every tensor becomes.

    Raises:
        UsageError: a type's name is not known, or a pattern is not well formed.
        PlanError: a pattern matches nothing, the importance belongs to another model, or a
            fallback is needed and the recipe refuses it.
    """
    listed = [(tensor.name, tensor.shape, model.source_type(tensor)) for tensor in model.tensors]
    importance, warnings = statistics.importance, list[str]()
    if importance:
        shapes = {name: shape for name, shape, _ in listed}
        importance, warnings = match_importance(importance, shapes)
    choices = choose_formats(
        recipe,
        facts_from_metadata(model.metadata),
        listed,
        importance.values if importance else None,
        from_gguf=model.checkpoint.container == "gguf",
    )
    tensors = tuple(
        _plan_tensor(map_, choice, dtype, importance, model.checkpoint.tensors)
        for map_, choice, (_, _, dtype) in zip(model.tensors, choices, listed, strict=True)
    )
    made_by = _made_by(model, recipe, importance)
    slots = tuple(slot for tensor in tensors for slot in tensor.slots)
    return Plan(
        model.checkpoint,
        recipe,
        tensors,
        GgufFiles(
            recipe.path(model.checkpoint.source),
            {**model.metadata, **made_by},
            slots,
            recipe.split_max_size,
        ),
        file_size(model.pairs_size + len(pairs_bytes(made_by)), slots),
        (*model.notices, *statistics.notices, *warnings),
    )


def _plan_tensor(
    map_: TensorMap,
    choice: Choice,
    dtype: str,
    importance: Importance | None,
    sources: Mapping[str, TensorInfo],
) -> TensorPlan:
    values = importance.values.get(map_.name) if importance else None
    means = importance.means.get(map_.name) if importance else None
    several = values is not None and len(values) > 1
    block, block_bytes = block_sizes(choice.format)
    nbytes = map_.elements // block * block_bytes
    extra = 0
    if choice.fell_back:
        block, block_bytes = block_sizes(choice.wanted)
        extra = nbytes - round(map_.elements * block_bytes / block)
    return TensorPlan(
        map_.name,
        map_.shape,
        dtype,
        map_,
        (Slot(map_.name, map_.shape, choice.format, nbytes, ALIGNMENT),),
        Blocks(
            map_.name,
            choice.format,
            map_.shape[-2] if several else map_.rows,
            _can_be_moved(map_, choice.format, sources),
            values,
            means,
        ),
        choice.format,
        choice.wanted,
        choice.reason,
        extra,
    )


def _can_be_moved(tensor: TensorMap, format_: str, sources: Mapping[str, TensorInfo]) -> bool:
    """Whether the stored blocks can stay as they are."""
    if tensor.value is not None or tensor.add or tensor.transpose:
        return False
    dtypes = {sources[part.source].dtype for part in tensor.parts}
    return dtypes == {format_} and block_sizes(format_)[0] > 1


def _made_by(model: Model, recipe: Recipe, importance: Importance | None) -> Metadata:
    """What a later reader needs to know how the file came to be."""
    keys = {
        "general.file_type": u32(recipe.file_type.ftype),
        "general.quantization_version": u32(QUANTIZATION_VERSION),
        "general.quantized_by": text(f"qconvert {__version__}"),
        "qconvert.version": text(__version__),
        "qconvert.source": text(model.checkpoint.source),
        "qconvert.source.fingerprint": text(model.fingerprint),
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
