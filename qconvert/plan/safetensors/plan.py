"""The plan of a quantized safetensors directory: every tensor with its bytes, and every small
file, before a weight is read.

    checkpoint + recipe + what a calibration adds -> CompressedPlan
"""

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from typing import Any

from qconvert import __version__
from qconvert.checkpoint import Checkpoint, fingerprint
from qconvert.checkpoint.dtypes import PLAIN
from qconvert.containers.model_card import model_card
from qconvert.containers.safetensors import Slot
from qconvert.errors import PlanError
from qconvert.formats.safetensors import encoding
from qconvert.formats.safetensors.types import Estimator, ScaleDtype
from qconvert.model.directory_files import directory_files, special_ids
from qconvert.model.general import general_metadata
from qconvert.model.source import Source, Weight
from qconvert.model.tokenizers.export import json_bytes
from qconvert.model.tokenizers.stored import read_stored
from qconvert.plan.safetensors.choices import Choice, choose, peak_key
from qconvert.plan.safetensors.config import DTYPES, config_json, schemes
from qconvert.plan.safetensors.files import small_files
from qconvert.plan.safetensors.notices import described, fallback_lines, is_loadable, loads_in
from qconvert.plan.safetensors.recipe import CompressedRecipe
from qconvert.plan.safetensors.statistics import (
    NOTHING,
    Statistics,
    factors_of,
    importance_of,
    static_input,
    statistics_digest,
)
from qconvert.plan.safetensors.tensors import FLOATS, KeptTensor, QuantizedTensor, StaticInput

WRITTEN = (
    "Written by qconvert {version}: weights quantized in the layouts of compressed-tensors, for "
    "transformers and serving engines (vLLM, SGLang)."
)

CompressedTensor = KeptTensor | QuantizedTensor


@dataclass(frozen=True)
class CompressedPlan:
    """Everything about the directory but its weights.

    Attributes:
        choices: what becomes of each weight, in the order of `tensors`.
        dtype: of the numbers that are not quantized.
        config: `config.json`.
        files: the small files by name, config.json and the model card among them.
        metadata: for the header of each safetensors file.
        notices: what the user should know.
    """

    source: Source
    recipe: CompressedRecipe
    choices: tuple[Choice, ...]
    tensors: tuple[CompressedTensor, ...]
    dtype: str
    config: Mapping[str, Any]
    files: Mapping[str, bytes]
    metadata: Mapping[str, str]
    notices: tuple[str, ...]

    @property
    def checkpoint(self) -> Checkpoint:
        return self.source.checkpoint

    @cached_property
    def slots(self) -> tuple[Slot, ...]:
        """Every tensor of the files, those of a weight side by side."""
        return tuple(slot for tensor in self.tensors for slot in tensor.slots)

    @cached_property
    def nbytes(self) -> int:
        """Bytes of the tensors."""
        return sum(slot.nbytes for slot in self.slots)

    @property
    def parameters(self) -> int:
        return sum(choice.weight.map.elements for choice in self.choices)

    @property
    def bits_per_weight(self) -> float:
        return 8 * self.nbytes / self.parameters

    @property
    def fallbacks(self) -> tuple[Choice, ...]:
        return tuple(choice for choice in self.choices if choice.reasons)

    @property
    def schemes(self) -> dict[str, int]:
        """How many weights are stored how, the most bytes first."""
        sizes: Counter[str] = Counter()
        counts: Counter[str] = Counter()
        for choice, tensor in zip(self.choices, self.tensors, strict=True):
            name = described(choice.scheme) if choice.scheme else tensor.slots[0].dtype
            sizes[name] += sum(slot.nbytes for slot in tensor.slots)
            counts[name] += 1
        return {name: counts[name] for name, _ in sizes.most_common()}

    @property
    def is_loadable(self) -> bool:
        """Whether transformers runs the directory as it stands."""
        return is_loadable(self.choices)


def make_compressed_plan(
    source: Source, recipe: CompressedRecipe, statistics: Statistics = NOTHING
) -> CompressedPlan:
    """Decide what the directory will hold.

    Raises:
        PlanError: a pattern matches nothing, an exception cannot be made, or statistics are missing
            or of another shape.
        CheckpointError: metadata or small files cannot be read or trusted.
    """
    checkpoint = source.checkpoint
    choices = tuple(choose(source, recipe, statistics.ranges))
    if not schemes(choices):
        raise PlanError("nothing would be quantized", "leave out what keeps all weights")
    own = model_dtype(source)
    is_fp4 = any("fp4" in scheme.weights.layout for scheme in schemes(choices))
    dtype = "BF16" if is_fp4 else own  # what float4 unpacks to, and nothing else
    maker = _Maker(checkpoint, recipe, statistics, dtype, converted=dtype != own)
    tensors = tuple(_with_peers(choices, [maker.tensor(choice) for choice in choices]))
    config = config_json(source, choices, dtype)
    made_by = {
        "qconvert.version": __version__,
        "qconvert.source": checkpoint.source,
        "qconvert.source.fingerprint": fingerprint(checkpoint),
        "qconvert.recipe": _spelled(recipe),
        **statistics_digest(statistics),
    }
    notices = [
        *source.notices,
        *_lost(checkpoint),
        *_missing_tokenizer(source),
        *fallback_lines(choices),
    ]
    notices += [*statistics.notices, *loads_in(source, choices), *_rounded(checkpoint, tensors)]
    plan = CompressedPlan(
        source,
        recipe,
        choices,
        tensors,
        dtype,
        config,
        {},
        {"format": "pt", **made_by},
        tuple(notices),
    )
    return replace(plan, files=_files(plan, statistics))


def model_dtype(source: Source) -> ScaleDtype:
    """The dtype of the model: as config.json says, else that of most bytes; of blocks F32."""
    known: dict[str, ScaleDtype] = {"float32": "F32", "float16": "F16", "bfloat16": "BF16"}
    inner = source.config.get("text_config")
    for settings in (source.config, inner if isinstance(inner, Mapping) else {}):
        for key in ("dtype", "torch_dtype"):
            if settings.get(key) in known:
                return known[settings[key]]
    sizes: Counter[ScaleDtype] = Counter()
    for weight in source.weights:
        plain: dict[str, ScaleDtype] = {"F32": "F32", "F16": "F16", "BF16": "BF16"}
        sizes[plain.get(weight.dtype, "F32")] += weight.map.elements
    return sizes.most_common(1)[0][0]


@dataclass(frozen=True)
class _Maker:
    """What all tensors have in common.

    Attributes:
        converted: kept floats get the dtype of the model, whatever they are stored in.
    """

    checkpoint: Checkpoint
    recipe: CompressedRecipe
    statistics: Statistics
    dtype: ScaleDtype
    converted: bool

    def tensor(self, choice: Choice) -> CompressedTensor:
        if choice.scheme is None:
            return self._kept(choice.weight)
        weight, columns = choice.weight, choice.weight.matrix_map.columns
        factors = factors_of(weight, self.statistics.smoothing)
        return QuantizedTensor(
            weight,
            choice.scheme,
            self.dtype,
            self.recipe.estimator or Estimator(),
            importance_of(weight, columns, self.statistics.importance, factors),
            factors,
            self._input(choice),
        )

    def _kept(self, weight: Weight) -> KeptTensor:
        factors = factors_of(weight, self.statistics.smoothing)
        dtype = weight.dtype
        is_float = dtype in FLOATS
        if not self._has_plain_bytes(weight) or (is_float and self.converted):
            dtype = self.dtype
        moved = dtype == weight.dtype and factors is None and not _is_computed(weight)
        return KeptTensor(weight.map, dtype, moved, weight.add, factors)

    def _has_plain_bytes(self, weight: Weight) -> bool:
        """Whether what is stored can be written again; not F64, float8 and blocks."""
        info = self.checkpoint.tensors[weight.map.parts[0].source]
        is_narrow = weight.dtype in FLOATS or weight.dtype[0] in "IUB"
        return weight.dtype in PLAIN and is_narrow and info.scale is None

    def _input(self, choice: Choice) -> StaticInput | None:
        ranges = self.statistics.ranges
        if choice.scheme is None or not choice.scheme.is_static:
            return None
        if ranges is None:  # the bytes are known all the same
            symmetric = choice.scheme.inputs is None or choice.scheme.inputs.symmetric
            return StaticInput(None, None if symmetric else 0)
        return static_input(choice, ranges[choice.weight.gguf])


def _is_computed(weight: Weight) -> bool:
    """Whether the rows are not those that are stored."""
    return bool(weight.map.add or weight.map.transpose)


def _with_peers(
    choices: Sequence[Choice], tensors: Sequence[CompressedTensor]
) -> list[CompressedTensor]:
    """Tensors that draw their scale from the largest weight know all those it is over."""
    groups: dict[tuple[str, ...], list[QuantizedTensor]] = {}
    for choice, tensor in zip(choices, tensors, strict=True):
        if isinstance(tensor, QuantizedTensor) and encoding.needs_peak(tensor.scheme.weights):
            groups.setdefault(peak_key(choice.weight), []).append(tensor)
    made: list[CompressedTensor] = []
    for choice, tensor in zip(choices, tensors, strict=True):
        peers = groups.get(peak_key(choice.weight)) if choice.weight.gguf else None
        if isinstance(tensor, QuantizedTensor) and peers and tensor in peers:
            made.append(replace(tensor, peers=tuple(peers)))
        else:
            made.append(tensor)
    return made


def _spelled(recipe: CompressedRecipe) -> str:
    return json.dumps(asdict(recipe), sort_keys=True, separators=(",", ":"))


def _lost(checkpoint: Checkpoint) -> list[str]:
    quantized = sorted({info.dtype for info in checkpoint.tensors.values()} - {*PLAIN})
    if not quantized:
        return []
    return [f"the source is quantized already ({', '.join(quantized)}): what it lost stays lost"]


def _missing_tokenizer(source: Source) -> list[str]:
    from qconvert.model.tokenizers.tokenizer import has_tokenizer

    checkpoint = source.checkpoint
    if checkpoint.container == "gguf":
        return []
    if has_tokenizer(checkpoint.path):
        return []
    return ["there is no tokenizer beside the weights: the directory will have none"]


def _rounded(checkpoint: Checkpoint, tensors: Sequence[CompressedTensor]) -> list[str]:
    """Kept weights that lose something."""
    count = sum(
        tensor.dtype != "F32"
        and checkpoint.tensors[tensor.map.parts[0].source].dtype in ("F32", "F64", "F16")
        and checkpoint.tensors[tensor.map.parts[0].source].dtype != tensor.dtype
        for tensor in tensors
        if isinstance(tensor, KeptTensor)
    )
    return [f"{count} other tensors are rounded to bfloat16"] if count else []


def _files(plan: CompressedPlan, statistics: Statistics) -> dict[str, bytes]:
    """All files but the weights."""
    checkpoint, source = plan.checkpoint, plan.source
    family = source.architecture.name
    if checkpoint.container == "gguf":
        stored = read_stored(checkpoint.metadata, source.config["vocab_size"])
        config = {**plan.config, **special_ids(stored)}
        files = directory_files(checkpoint.metadata, config, family, stored)
        metadata = checkpoint.metadata
    else:
        files = {**small_files(checkpoint.path), "config.json": json_bytes(plan.config)}
        maps = [weight.map for weight in source.weights]
        metadata = general_metadata(checkpoint.path, checkpoint.source, family, maps)
    facts = {
        "Source": plan.metadata["qconvert.source"],
        "Fingerprint": plan.metadata["qconvert.source.fingerprint"],
        "Class": source.config["architectures"][0],
        "Parameters": f"{plan.parameters:,}",
        "Bytes of weights": f"{plan.nbytes:,}",
        "Weights": ", ".join(f"{count} {name}" for name, count in plan.schemes.items()),
        "Other numbers": DTYPES[plan.dtype],
    }
    if statistics.name:
        facts["Calibration"] = statistics.name
    base = checkpoint.source.partition("@")[0].partition(":")[0]
    task = "feature-extraction" if family == "bert" else "text-generation"
    card = model_card(metadata, facts, plan.notices, task, written=WRITTEN, base=base)
    return {**files, "README.md": card.encode()}
