"""GGUF to a Hugging Face directory: the plan, and the writing of it.

    config.json, generation_config.json         from the metadata
    tokenizer.json and its companions           from the `tokenizer.*` keys
    model.safetensors, or shards and an index   streamed, slab by slab
    README.md                                   where it comes from

Everything small is made before a weight is read, so what cannot work is said at once.
"""

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

from qconvert import __version__
from qconvert.checkpoint import Checkpoint, fingerprint
from qconvert.containers.directory import MAX_SHARD_SIZE, Directory
from qconvert.containers.model_card import model_card
from qconvert.containers.safetensors import Slot
from qconvert.errors import UsageError
from qconvert.machine.watcher import Watcher
from qconvert.model.directory_files import directory_files, special_ids
from qconvert.model.reverse import Description, describe
from qconvert.model.tokenizers.stored import Stored, read_stored
from qconvert.model.types import TensorMap
from qconvert.plan.gguf.plan import TensorPlan
from qconvert.run.outputs import write_outputs
from qconvert.run.work import Output, Result

DTYPES = {"F32": "float32", "F16": "float16", "BF16": "bfloat16"}
"""safetensors' names, and torch's."""

AUTO = "auto"


@dataclass(frozen=True)
class ExportPlan:
    """Everything about the directory but its weights.

    Attributes:
        checkpoint: the GGUF file.
        description: what it is in Hugging Face's terms.
        tensors: each with the dtype that it gets.
        files: the small files by name.
        metadata: for the header of each safetensors file.
        notices: what the user should know.
    """

    checkpoint: Checkpoint
    description: Description
    tensors: tuple[TensorPlan, ...]
    files: Mapping[str, bytes]
    metadata: Mapping[str, str]
    notices: tuple[str, ...]

    @cached_property
    def dtypes(self) -> dict[str, int]:
        """How many tensors get each dtype, the most bytes first."""
        counts = Counter(tensor.format for tensor in self.tensors)
        return {name: counts[name] for name in _by_bytes(self.tensors)}

    @property
    def nbytes(self) -> int:
        """Bytes of the weights."""
        return sum(tensor.nbytes for tensor in self.tensors)

    @property
    def parameters(self) -> int:
        return sum(tensor.map.elements for tensor in self.tensors)

    def target(self, path: Path, max_shard_size: int = MAX_SHARD_SIZE) -> Directory:
        """Where it is written."""
        slots = [Slot(t.name, t.map.shape, t.format, t.nbytes) for t in self.tensors]
        return Directory(path, slots, self.metadata, self.files, max_shard_size)


def make_export_plan(checkpoint: Checkpoint, dtype: str = AUTO) -> ExportPlan:
    """Decide what the directory will hold.

    Args:
        checkpoint: an opened GGUF file.
        dtype: "f32", "f16" or "bf16" for all tensors; "auto" keeps each tensor's own float type
            and makes quantized ones F32, the only type that holds their weights exactly.

    Raises:
        UnsupportedError: a family or tokenizer that cannot be written.
        CheckpointError: metadata that cannot be trusted.
        PlanError: tensors do not fit the metadata.
        UsageError: another dtype.
    """
    description = describe(checkpoint)
    tensors = tuple(_plan_tensor(checkpoint, map_, dtype) for map_ in description.tensors)
    stored = read_stored(checkpoint.metadata, description.config["vocab_size"])
    torch_dtype = {"torch_dtype": DTYPES[_by_bytes(tensors)[0]]}
    config = {**description.config, **special_ids(stored), **torch_dtype}
    description = replace(description, config=config)
    made_by = {
        "qconvert.version": __version__,
        "qconvert.source": checkpoint.source,
        "qconvert.source.fingerprint": fingerprint(checkpoint),
    }
    plan = ExportPlan(
        checkpoint,
        description,
        tensors,
        directory_files(checkpoint.metadata, config, description.architecture.name, stored),
        {"format": "pt", **made_by},
        _notices(checkpoint, description, tensors, stored),
    )
    return replace(plan, files={**plan.files, "README.md": _card(plan).encode()})


def _notices(
    checkpoint: Checkpoint,
    description: Description,
    tensors: tuple[TensorPlan, ...],
    stored: Stored | None,
) -> tuple[str, ...]:
    notices = [*description.notices, *_lost(checkpoint), *_rounded(checkpoint, tensors)]
    if description.architecture.name == "bert":
        notices.append("a GGUF file has no pooler: transformers will draw one at random")
    if stored is None:
        notices.append("the file holds no tokenizer, so the directory will have none")
    else:
        notices += stored.notices
    return tuple(notices)


def _plan_tensor(checkpoint: Checkpoint, map_: TensorMap, dtype: str) -> TensorPlan:
    wanted = dtype.upper()
    if dtype == AUTO:
        stored = {checkpoint.tensors[part.source].dtype for part in map_.parts}
        wanted = stored.pop() if len(stored) == 1 else "F32"
        wanted = wanted if wanted in DTYPES else "F32"
    if wanted not in DTYPES:
        raise UsageError(f"{dtype!r} is no dtype", "choose auto, f32, f16 or bf16")
    return TensorPlan(map_, wanted, wanted)


def _by_bytes(tensors: tuple[TensorPlan, ...]) -> list[str]:
    sizes: Counter[str] = Counter()
    for tensor in tensors:
        sizes[tensor.format] += tensor.nbytes
    return [name for name, _ in sizes.most_common()]


def _lost(checkpoint: Checkpoint) -> list[str]:
    types = Counter(info.dtype for info in checkpoint.tensors.values())
    quantized = sorted(set(types) - {*DTYPES, "F64"})
    if not quantized:
        return []
    return [f"the source is quantized ({', '.join(quantized)}): what it lost stays lost"]


def _rounded(checkpoint: Checkpoint, tensors: tuple[TensorPlan, ...]) -> list[str]:
    """What a chosen dtype costs; "auto" costs nothing."""
    stored = checkpoint.tensors
    narrowed = Counter(
        tensor.format
        for tensor in tensors
        if tensor.format != "F32" and stored[tensor.map.parts[0].source].dtype != tensor.format
    )
    return [f"{count} tensors are rounded to {name}" for name, count in narrowed.items()]


def _card(plan: ExportPlan) -> str:
    types = Counter(info.dtype for info in plan.checkpoint.tensors.values())
    facts = {
        "Source": plan.metadata["qconvert.source"],
        "Fingerprint": plan.metadata["qconvert.source.fingerprint"],
        "Class": plan.description.config["architectures"][0],
        "Parameters": f"{plan.parameters:,}",
        "Stored as": ", ".join(f"{count} {name}" for name, count in types.most_common()),
        "Written as": ", ".join(f"{count} {name}" for name, count in plan.dtypes.items()),
    }
    is_encoder = plan.description.architecture.name == "bert"
    task = "feature-extraction" if is_encoder else "text-generation"
    return model_card(plan.checkpoint.metadata, facts, plan.notices, task)


def write_directory(
    plan: ExportPlan,
    path: Path,
    max_shard_size: int,
    threads: int,
    watcher: Watcher,
    *,
    allow_nan: bool = False,
) -> Result:
    """Write the directory; it appears when it is complete.

    Raises:
        OutputError: something is there already, no room, or it cannot be written. What is done
            is used by the next run of the same plan.
        WeightError: a weight is NaN or infinite and `allow_nan` is not given, or too large for
            F16.
    """
    output = Output(plan.checkpoint, plan.tensors, plan.target(path, max_shard_size), allow_nan)
    return write_outputs([output], threads, watcher)[0]
