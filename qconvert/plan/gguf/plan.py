"""The plan: every output tensor with its sources, format and bytes, before anything is read.

    checkpoint + recipe + importance -> Plan

`inspect`, `--dry-run`, disk checks, fallbacks and resuming all come from it; what cannot work is
said here.
"""

import hashlib
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
from gguf import GGMLQuantizationType, GGUFValueType

from qconvert import __version__
from qconvert.algorithms.balance import quantize_balanced
from qconvert.calibration.importance import Importance, match_importance
from qconvert.checkpoint import Checkpoint, TensorInfo, fingerprint
from qconvert.checkpoint.metadata import Field, Metadata, text, u32
from qconvert.containers.gguf import Shard, Slot, file_size, lay_out, pairs_size
from qconvert.formats import FORMATS
from qconvert.formats.floats import check_f16
from qconvert.formats.types import block_sizes
from qconvert.model.caveats import caveats
from qconvert.model.families import find_architecture, map_tensors, pooling_metadata
from qconvert.model.general import general_metadata
from qconvert.model.tokenizers.tokenizer import has_tokenizer, tokenizer_metadata
from qconvert.model.types import Rows, TensorMap
from qconvert.plan.gguf.mixture import Choice, choose_formats, facts_from_metadata
from qconvert.plan.gguf.recipe import Recipe

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
        return pairs_size(self.metadata)

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


@dataclass(frozen=True)
class TensorPlan:
    """One output tensor.

    Attributes:
        map: where its rows come from.
        format: what is written.
        wanted: what the recipe asked for before the fallback.
        reason: why they differ; empty if they do not.
        importance: float32 [matrices, columns], or None.
        means: of the inputs, float32 [matrices, columns], or None where they are not known.
        moved: the source has whole blocks of the same format, which stay as they are.
    """

    map: TensorMap
    format: str
    wanted: str
    reason: str = ""
    importance: np.ndarray | None = None
    means: np.ndarray | None = None
    moved: bool = False

    @property
    def row_step(self) -> int:
        return 1

    @property
    def peers(self) -> tuple["TensorPlan", ...]:
        return ()

    @property
    def name(self) -> str:
        return self.map.name

    @property
    def names(self) -> tuple[str, ...]:
        return (self.name,)

    @property
    def matrix_rows(self) -> int:
        """Where each matrix has its own importance, its rows."""
        several = self.importance is not None and len(self.importance) > 1
        return self.map.shape[-2] if several else self.map.rows

    @property
    def holds_nan(self) -> bool:
        return block_sizes(self.format)[0] == 1

    @property
    def kernel(self) -> str:
        return f"{self.format} balanced" if self.means is not None else self.format

    def prepare(self, rows: np.ndarray, start: int) -> np.ndarray:
        return rows

    def make(self, rows: np.ndarray, start: int, peak: float) -> tuple[np.ndarray, ...]:
        """uint8 [rows, row bytes].

        Raises:
            WeightError: a weight is too large for F16.
        """
        if self.format == "F16":
            check_f16(self.name, rows)
        format_ = FORMATS[self.format]
        if self.importance is None:
            return (format_.quantize(rows, None),)
        matrix = start * len(self.importance) // self.map.rows
        importance = np.ascontiguousarray(self.importance[matrix], dtype=np.float32)
        if self.means is None:
            return (format_.quantize(rows, importance),)
        mean = np.ascontiguousarray(self.means[matrix], dtype=np.float32)
        return (quantize_balanced(format_, rows, importance, mean),)

    @property
    def nbytes(self) -> int:
        block, block_bytes = block_sizes(self.format)
        return self.map.elements // block * block_bytes

    @property
    def is_fallback(self) -> bool:
        return self.format != self.wanted

    @property
    def extra_bytes(self) -> int:
        """What the fallback costs, against the wanted format's bits per weight."""
        block, block_bytes = block_sizes(self.wanted)
        return self.nbytes - round(self.map.elements * block_bytes / block)

    @property
    def slot(self) -> Slot:
        type_ = GGMLQuantizationType[self.format]
        return Slot(self.name, self.map.shape, type_, self.nbytes)


@dataclass(frozen=True)
class Plan:
    """Everything about the output but its weights.

    Attributes:
        made_by: the metadata that says how the file came to be, beside the model's.
        notices: what the user should know.
    """

    model: Model
    recipe: Recipe
    tensors: tuple[TensorPlan, ...]
    made_by: Metadata
    notices: tuple[str, ...] = ()

    @property
    def metadata(self) -> Metadata:
        return {**self.model.metadata, **self.made_by}

    @cached_property
    def slots(self) -> tuple[Slot, ...]:
        return tuple(tensor.slot for tensor in self.tensors)

    @cached_property
    def nbytes(self) -> int:
        """The exact size of the file, unsplit."""
        return file_size(self.model.pairs_size + pairs_size(self.made_by), self.slots)

    @property
    def bits_per_weight(self) -> float:
        """Bits of tensor data over weights, as llama.cpp counts them."""
        weights = sum(tensor.map.elements for tensor in self.tensors)
        return 8 * sum(tensor.nbytes for tensor in self.tensors) / weights

    @property
    def fallbacks(self) -> tuple[TensorPlan, ...]:
        return tuple(tensor for tensor in self.tensors if tensor.is_fallback)

    @property
    def formats(self) -> dict[str, int]:
        """How many tensors get each format, the most bytes first."""
        sizes: Counter[str] = Counter()
        for tensor in self.tensors:
            sizes[tensor.format] += tensor.nbytes
        counts = Counter(tensor.format for tensor in self.tensors)
        return {name: counts[name] for name, _ in sizes.most_common()}

    def shards(self, path: Path, split_max_size: int | None = None) -> tuple[Shard, ...]:
        """The files to write."""
        return lay_out(path, self.metadata, self.slots, split_max_size)


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


def make_plan(model: Model, recipe: Recipe, importance: Importance | None = None) -> Plan:
    """Decide what every tensor becomes.

    Raises:
        PlanError: a pattern matches nothing, the importance belongs to another model, or a
            fallback is needed and the recipe refuses it.
    """
    listed = [(tensor.name, tensor.shape, model.source_type(tensor)) for tensor in model.tensors]
    facts = facts_from_metadata(model.metadata)
    warnings: list[str] = []
    if importance:
        shapes = {name: shape for name, shape, _ in listed}
        importance, warnings = match_importance(importance, shapes)
    known = importance.values if importance else None
    from_gguf = model.checkpoint.container == "gguf"
    choices = choose_formats(recipe, facts, listed, known, from_gguf=from_gguf)
    tensors = tuple(
        _plan_tensor(tensor, choice, importance, model.checkpoint.tensors)
        for tensor, choice in zip(model.tensors, choices, strict=True)
    )
    made_by = _made_by(model, recipe, importance)
    return Plan(model, recipe, tensors, made_by, (*model.notices, *warnings))


def _plan_tensor(
    tensor: TensorMap,
    choice: Choice,
    importance: Importance | None,
    sources: Mapping[str, TensorInfo],
) -> TensorPlan:
    values = importance.values.get(tensor.name) if importance else None
    means = importance.means.get(tensor.name) if importance else None
    moved = _can_be_moved(tensor, choice.format, sources)
    return TensorPlan(tensor, choice.format, choice.wanted, choice.reason, values, means, moved)


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
